from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners import job
from kvfrontier.runners.cell import Bench
from kvfrontier.runners.record import load_records

#: Eight cells in two jobs.
SWEEP = ("-m", "method=dense,window", "seed=0,1", "context=384,448")


def ids(results: Path) -> set[str]:
    return {record.id for record in load_records(results)}


def test_a_second_run_finds_every_record(run, tmp_path):
    first = run(*SWEEP, "--json").json
    lines = {file: file.read_bytes() for file in (tmp_path / "results").glob("*.jsonl")}
    again = run(*SWEEP, "--json").json
    assert (first["ran"], first["recorded"]) == (8, 0)
    assert (again["ran"], again["recorded"]) == (0, 8)
    assert {file: file.read_bytes() for file in (tmp_path / "results").glob("*.jsonl")} == lines
    assert len(lines) == 2


def test_only_what_is_missing_is_run(run):
    run("-m", "method=dense", "seed=0,1", "context=384")
    assert run(*SWEEP, "--json").json["ran"] == 6


def test_a_changed_method_is_measured_again(run, monkeypatch):
    run("method=window")
    monkeypatch.setattr("kvfrontier.methods.registry.source_hash", lambda params: "0" * 64)
    assert run("method=window", "--json").json["ran"] == 1


def test_dry_run_says_what_is_there_and_does_nothing(run, tmp_path):
    run("-m", "method=dense", "seed=0,1", "context=384")
    before = sorted(tmp_path.rglob("*"))
    plan = run(*SWEEP, "--dry-run", "--json").json
    assert plan["jobs"] == 2
    assert sorted(cell["state"] for cell in plan["cells"]) == ["recorded"] * 2 + ["to run"] * 6
    assert "cells to run: 6, recorded: 2" in run(*SWEEP, "--dry-run").out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_leaves_no_folder(run, tmp_path):
    assert run("--dry-run").code == 0
    assert not (tmp_path / "results").exists()


def test_what_a_method_cannot_serve_is_a_result_of_a_sweep(run, tmp_path):
    plan = run("-m", "method=window,mla", "--dry-run")
    assert "cells to run: 1, impossible: 1, recorded: 0" in plan.out
    assert "no latents to hold" in plan.out
    answer = run("-m", "method=window,mla", "--json")
    assert answer.code == 0, answer.err
    served, refused = answer.json["cells"]
    assert (served["status"], refused["status"]) == ("ok", "infeasible")
    assert "no latents to hold" in refused["reason"]
    (record,) = (r for r in load_records(tmp_path / "results") if r.id == refused["id"])
    blocks = (record.quality, record.memory, record.time)
    assert all((b.status, b.reason) == ("infeasible", refused["reason"]) for b in blocks)
    assert run("-m", "method=window,mla", "--json").json["ran"] == 0


def test_a_context_that_is_too_short_for_a_task_is_a_result_among_others(run, tmp_path):
    answer = run("-m", "context=192,384", "--json")
    assert answer.code == 0
    short, fits = sorted(load_records(tmp_path / "results"), key=lambda r: r.cell.context)
    assert short.quality.status == "infeasible"
    assert "context 192 is too short" in short.quality.reason
    # Bytes and seconds are of any tokens, and ask nothing of the task.
    assert short.memory.status == short.time.status == fits.quality.status == "ok"
    assert run("-m", "context=192,384", "--json").json["ran"] == 0


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        (["method=cached", "method/selection=h2o,snapkv", "method/store=kivi,dense"], "cannot lose one"),
        (["method=window,sinks", "budget=2"], "holds more at the smallest method.window"),
        (["method=dense,self_extend", "context=8192,384"], None),
    ],
)
def test_a_plan_says_which_cells_are_impossible(run, axes, why):
    """A composition that its axes refuse; a budget below the smallest setting; and what only seems so."""
    planned = run("-m", *axes, "model.head_dim=32", "--dry-run", "--json").json["cells"]
    reasons = [c["reason"] for c in planned if c["state"] == "impossible"]
    assert len(reasons) == (why is not None)
    assert all(why in reason for reason in reasons)


def test_a_sweep_file_says_axes_and_exceptions(run, tmp_path):
    folder = tmp_path / "mine" / "sweep"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        """\
# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    params: {method: [dense, window, sinks], batch: [1, 2], seed: [0, 1]}
    exclude:
      - {batch: 2, method: "!dense"}
      - {method: [sinks, dense], seed: 1}
      - {model.layers: 99}
"""
    )
    cells = run("--config-dir", str(tmp_path / "mine"), "+sweep=mine", "--dry-run", "--json").json["cells"]
    assert {(c["method"]["name"], c["batch"], c["seed"]) for c in cells} == {
        ("dense", 1, 0), ("dense", 2, 0), ("window", 1, 0), ("window", 1, 1), ("sinks", 1, 0),
    }  # fmt: skip


def test_the_command_line_has_the_last_word_on_an_axis(kvfrontier):
    sweep = ["+sweep=quickstart", "method=window", "task=perplexity", "context=300"]
    (cell,) = kvfrontier("run", *sweep, "results=nowhere", "--dry-run", "--json").json["cells"]
    assert cell["method"]["name"] == "window"
    assert cell["context"] == 300


def test_interrupted_and_resumed_the_records_are_those_of_an_undisturbed_sweep(run, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a cell."""
    whole, seen = Bench.run, []

    def interrupted(self, cell, config, say):
        seen.append(cell)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return whole(self, cell, config, say)

    monkeypatch.setattr(Bench, "run", interrupted)
    answer = run(*SWEEP)
    assert answer.code == 130
    assert "goes on from there" in answer.err
    assert len(load_records(tmp_path / "results")) == 3
    monkeypatch.undo()
    assert run(*SWEEP, "--json").json["ran"] == 5
    run(*SWEEP, f"results={tmp_path / 'undisturbed'}")
    assert ids(tmp_path / "results") == ids(tmp_path / "undisturbed")


def test_a_job_that_dies_is_said_and_the_others_run(run, monkeypatch):
    def dies(config):
        if config.method.name == "dense":
            raise RuntimeError("the machine is on fire")
        return job_run(config)

    job_run = job.run
    monkeypatch.setattr(job, "run", dies)
    answer = run(*SWEEP, "--json")
    assert answer.code == 1
    assert "the machine is on fire" in answer.err
    assert answer.json["failed"] == 4
    monkeypatch.undo()
    assert run(*SWEEP, "--json").json["ran"] == 4


@pytest.mark.parametrize("value", ["it's", "a b", "x=1", "c:\\dir", "c:\\", "\\'", "ünï"])
def test_a_job_is_told_its_cells_whatever_they_hold(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from kvfrontier.runners.sweep.cells import _quoted_list

    told: Any = OverridesParser.create().parse_override(f"cells=[{_quoted_list([value, 'b=2'])}]").value()
    assert [[str(o) for o in cell] for cell in told] == [[value, "b=2"]]
