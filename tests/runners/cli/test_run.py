import os
import re
import subprocess
import sys
from importlib.resources import files

import pytest
import yaml

from kvfrontier.runners.record import load_records


def test_one_cell_makes_one_record(run, tmp_path):
    answer = run("method=window", "method.window=64")
    assert answer.code == 0, answer.err
    (record,) = load_records(tmp_path / "results")
    assert record.status == "ok"
    assert record.cell.method == {"name": "window", "window": 64}
    assert record.quality.scores["accuracy"].n == 1
    assert record.time.prefill is not None
    assert record.memory.live_payload == record.memory.analytic_payload
    assert record.config["context"] == 384
    assert "window" in answer.out


def test_a_table_becomes_json(run):
    answer = run("--json")
    assert [cell["status"] for cell in answer.json["cells"]] == ["ok"]
    assert answer.json["ran"] == 1


def test_where_nobody_looks_progress_is_quiet(run):
    assert run().err == ""


def test_task_and_context_share_a_file_and_measurements(run, tmp_path):
    run("-m", "seed=0,1", "task.samples=1,2")
    records = load_records(tmp_path / "results")
    assert len(records) == 4
    assert len(list((tmp_path / "results").glob("*.jsonl"))) == 1
    for seed in (0, 1):
        first, second = (r.time for r in records if r.cell.seed == seed)
        assert first == second


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(run, tmp_path, monkeypatch):
    from kvfrontier.runners.tasks.needle import Needle

    whole = Needle.run

    def breaks(self, open_session, open_dense, loaded, context, seed, **more):
        if seed == 1:
            raise RuntimeError("the needle broke")
        return whole(self, open_session, open_dense, loaded, context, seed, **more)

    monkeypatch.setattr(Needle, "run", breaks)
    answer = run("-m", "seed=0,1,2")
    assert answer.code == 1
    by_seed = {r.cell.seed: r for r in load_records(tmp_path / "results")}
    assert [by_seed[seed].status for seed in (0, 1, 2)] == ["ok", "failed", "ok"]
    assert "the needle broke" in by_seed[1].quality.reason
    assert "the needle broke" in answer.out
    monkeypatch.undo()
    assert run("-m", "seed=0,1,2", "--json").json["ran"] == 1


def test_out_of_memory_is_a_result(run, tmp_path, monkeypatch):
    from kvfrontier.runners.tasks.needle import Needle

    def too_much(*_, **__):
        raise MemoryError("no more")

    monkeypatch.setattr(Needle, "run", too_much)
    assert run().code == 0
    assert [r.quality.status for r in load_records(tmp_path / "results")] == ["oom"]
    assert run("--json").json["ran"] == 0


def test_help_teaches_by_example(kvfrontier):
    for command in (["--help"], ["run", "--help"], ["list", "--help"], ["report", "--help"]):
        answer = kvfrontier(*command)
        assert answer.code == 0
        assert "kvfrontier " in answer.out
    assert "method=window method.window=256" in kvfrontier("run", "--help").out


def test_help_names_every_group_choice_and_key(kvfrontier):
    page = kvfrontier("run", "method=kivi2", "--help").out
    for group in ("method", "model", "task", "tracker", "sweep", "search", "workload"):
        choices = [f.name.removesuffix(".yaml") for f in files("kvfrontier.configs").joinpath(group).iterdir()]
        assert all(re.search(rf"\b{re.escape(c)}\b", page) for c in choices if not c.startswith("__")), group
    config = yaml.safe_load(files("kvfrontier.configs").joinpath("config.yaml").read_text())
    assert all(f"{key}:" in page for key in set(config) - {"defaults", "hydra", "cells"})


def test_help_loads_no_torch():
    for command in (["run", "--help"], ["list", "models"]):
        code = f"import sys; from kvfrontier.runners import cli; cli.main({command}); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_asked_for_by_a_shell(kvfrontier, monkeypatch, shell):
    monkeypatch.delenv("COMP_LINE", raising=False)
    answer = kvfrontier("run", "--shell-completion", f"query={shell}")
    assert answer.code == 2
    assert f"install={shell}" in answer.err


def test_hydra_shows_the_configuration(run):
    answer = run("--cfg", "job", "method=kivi4")
    assert answer.code == 0
    assert "bits: 4" in answer.out
    assert "group: 32" in answer.out


def test_info_is_hydras(run):
    answer = run("--info", "searchpath")
    assert answer.code == 0
    assert "kvfrontier.configs" in answer.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kvfrontier run method=ki", "method=kivi4"),
        ("kvfrontier run method=window method.", "method.window="),
        ("kvfrontier run conte", "context="),
    ],
)
def test_the_shell_completes(kvfrontier, monkeypatch, line, offered):
    monkeypatch.setenv("COMP_LINE", line)
    answer = kvfrontier("-sc", "query=bash")
    assert answer.code == 0
    assert offered in answer.out.split()


def test_completion_is_installed_for_the_command(kvfrontier, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kvfrontier"])
    answer = kvfrontier("run", "--shell-completion", "install=bash")
    assert "hydra_bash_completion kvfrontier" in answer.out


def test_an_authors_folder_of_yamls_is_found(run, tmp_path):
    folder = tmp_path / "mine" / "method"
    folder.mkdir(parents=True)
    (folder / "narrow.yaml").write_text("defaults: [base/window@_here_, _self_]\nwindow: 16\n")
    answer = run("--config-dir", str(tmp_path / "mine"), "-m", "method=narrow", "seed=0,1", "--json")
    assert answer.code == 0, answer.err
    assert [cell["method"]["window"] for cell in answer.json["cells"]] == [16, 16]


def test_a_registered_method_without_a_yaml_is_chosen_by_its_name(run):
    assert run("method=kivi", "method.group=16", "--dry-run", "--json").json["cells"][0]["method"]["bits"] == 2


def test_report_loads_no_torch(tmp_path):
    report = "from kvfrontier.runners import cli; cli.main(['report', 'nowhere', '-o', 'x'])"
    code = f"import sys; {report}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_budget_gives_every_method_the_same_bytes(run, tmp_path):
    """What was asked and what was got stand in the record; where nothing fits, that is the record."""
    swept = ["-m", "model.head_dim=32", "budget=25%", "method=window,snapkv,linear,kivi8", "context=384,512"]
    answer = run(*swept)
    assert answer.code == 0, answer.err
    records = load_records(tmp_path / "results")
    by_method = {name: [r for r in records if r.cell.method["name"] == name] for name in ("window", "snapkv", "kivi")}
    for r in (*by_method["window"], *by_method["snapkv"]):
        assert r.cell.budget is not None
        assert r.cell.budget.knob is not None
        assert r.memory.share16 is not None
        assert 0.24 < r.memory.share16 <= 0.25
        assert r.cell.budget.got <= r.cell.budget.limit
        assert r.cell.method[r.cell.budget.knob] == r.cell.budget.value
    # A quarter of the prompt: of 384 and 512 tokens, 12 are for the answer.
    assert {r.cell.method["window"] for r in by_method["window"]} == {93, 125}
    assert all(r.status == "infeasible" and "residual" in r.memory.reason for r in by_method["kivi"])
    assert all(r.cell.budget and r.cell.budget.knob is None for r in records if r.cell.method["name"] == "linear")
    # One job a method, whatever came of its knob at each context.
    assert len(list((tmp_path / "results").glob("*.jsonl"))) == 4
    assert run(*swept, "--json").json["ran"] == 0


def test_axes_and_layers_are_chosen_on_the_command_line(run, tmp_path):
    answer = run("method=cached", "method/selection=snapkv", "method.selection.budget=40", "method.layers={0: dense}")
    assert answer.code == 0, answer.err
    (record,) = load_records(tmp_path / "results")
    assert record.info.label == "snapkv(budget=40)[0: dense]"
    assert record.cell.method["selection"] == {
        "name": "snapkv", "budget": 40, "window": 32, "kernel": 7, "pooling": "mean",
    }  # fmt: skip
    assert record.cell.method["layers"] == {"0": {"name": "dense", "backend": "auto"}}
    assert record.memory.live_payload == record.memory.analytic_payload
