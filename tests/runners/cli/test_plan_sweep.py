"""What a sweep would do: zipped axes, parts, sizes, time, and what will not fit."""

from __future__ import annotations

import pytest

from kvfrontier.runners.record import load_records

AXES = ("-m", "method=dense,window,kivi2", "context=384,448", "seed=0,1", "model.head_dim=32")


def cells(run, *words: str) -> list[dict]:
    return run(*words, "--dry-run", "--json").json["cells"]


def write_sweep(folder, body: str) -> list[str]:
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep" / "mine.yaml").write_text(f"# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n{body}")
    return ["--config-dir", str(folder), "+sweep=mine"]


def test_zipped_axes_advance_together(run, tmp_path):
    words = write_sweep(
        tmp_path / "mine",
        """\
    params: {batch: [1, 2]}
    zip:
      - {method: [window, sinks], seed: [3, 4]}
    exclude:
      - {method: sinks, batch: 2}
""",
    )
    found = {(c["method"]["name"], c["seed"], c["batch"]) for c in cells(run, *words)}
    assert found == {("window", 3, 1), ("window", 3, 2), ("sinks", 4, 1)}
    found = {(c["method"]["name"], c["seed"]) for c in cells(run, *words, "seed=9")}
    assert found == {("window", 9), ("sinks", 9)}, "the command line has the last word, and the rest goes on"


@pytest.mark.parametrize("entry", ["{method: [window, sinks], seed: [3]}", "{method: window}", "{}"])
def test_zipped_axes_of_other_lengths_are_a_mistake(run, tmp_path, entry):
    answer = run(*write_sweep(tmp_path / "mine", f"    zip:\n      - {entry}\n"), "--dry-run")
    assert answer.code == 2
    assert "zipped axes advance together, and take lists of as many values" in answer.err


@pytest.mark.parametrize("of", [2, 5])
def test_shards_are_the_sweep_whatever_is_recorded(run, of):
    """Three jobs in two parts are whole jobs; in five, they are split by what shares a measurement."""
    whole = {c["id"] for c in cells(run, *AXES)}
    parts = [{c["id"] for c in cells(run, *AXES, f"+sweep.shard={i}/{of}")} for i in range(1, of + 1)]
    assert sum(map(len, parts)) == len(whole) == 12
    assert set.union(*parts) == whole
    assert all(parts)


def test_shards_run_into_files_of_their_own_and_together_are_whole(run, tmp_path):
    axes = ("-m", "method=window", "seed=0,1,2")
    for i in (1, 2):
        assert run(*axes, f"+sweep.shard={i}/2").code == 0
    assert len(list((tmp_path / "results").glob("*of2.jsonl"))) == 2
    again = run(*axes, "--json").json
    assert (again["ran"], again["recorded"]) == (0, 3)
    assert "sweep" not in load_records(tmp_path / "results")[0].config


def test_a_part_that_is_none_is_a_mistake(run):
    answer = run(*AXES, "+sweep.shard=9/8")
    assert answer.code == 2
    assert "sweep.shard=9/8 is no part of a sweep" in answer.err


def test_state_is_known_before_and_time_after(run, tmp_path):
    before = cells(run, "-m", "method=dense,window", "context=384")
    assert [c["forecast"]["seconds"] for c in before] == [None, None]
    run("-m", "method=dense,window", "context=384")
    live = {
        r.cell.method["name"]: (r.memory.live_payload or 0) + (r.memory.live_slack or 0)
        for r in load_records(tmp_path / "results")
    }
    assert {c["method"]["name"]: c["forecast"]["state"] for c in before} == live
    took = {r.cell.method["name"]: r.seconds for r in load_records(tmp_path / "results")}
    after = {
        c["method"]["name"]: c["forecast"] for c in cells(run, "-m", "method=dense,window", "context=384", "seed=1")
    }
    assert {name: f["seconds"] for name, f in after.items()} == took
    assert {f["basis"] for f in after.values()} == {"the same cell"}
    plan = run("-m", "method=dense", "context=768", "seed=1", "--dry-run")
    assert "time: " in plan.out
    assert "unknown" not in plan.out


def test_predicted_peaks_are_those_of_the_run_and_kept(run, tmp_path, empty_cache):
    words = ("-m", "method=dense,window", "context=384")
    assert [c["forecast"]["peak"] for c in cells(run, *words)] == [None, None]
    predicted = {c["method"]["name"]: c["forecast"]["peak"] for c in cells(run, *words, "--predict")}
    assert {c["method"]["name"]: c["forecast"]["peak"] for c in cells(run, *words)} == predicted
    run(*words)
    measured = {r.cell.method["name"]: r.memory.peak for r in load_records(tmp_path / "results")}
    assert predicted == pytest.approx(measured, rel=0.01)


def test_what_will_not_fit_is_said_with_the_reason(run):
    answer = run("-m", "method=dense,window", "context=384", "memory_limit=600KiB", "--dry-run")
    assert "will not fit: 2" in answer.out
    assert "weights and state take" in answer.out


def test_the_longest_job_is_first(run):
    """By records where there are some: a method that is slow at one context is expected to be at another."""
    out = run("-m", "method=window,dense", "task.samples=1", "--dry-run", "context=384").out
    assert out.index("│ window") < out.index("│ dense"), "as given, where nothing tells them apart"
    out = run(
        "-m",
        "method=window,dense",
        "context=384,768",
        "--dry-run",
        "hydra.sweeper.exclude=[{method:window,context:768}]",
    ).out
    assert out.index("│ dense") < out.index("│ window")


def test_failures_keep_their_traceback_and_the_command_that_repeats_them(run, kvfrontier, tmp_path, monkeypatch):
    import shlex

    from kvfrontier.runners.tasks.needle import Needle

    def breaks(*_, **__):
        raise ArithmeticError("the needle broke")

    monkeypatch.setattr(Needle, "run", breaks)
    assert run("-m", "method=dense,window", "seed=7,8").code == 1
    failed = load_records(tmp_path / "results")
    assert len(failed) == 4
    monkeypatch.undo()
    for record in failed:
        assert record.quality.failure is not None
        assert "in breaks" in record.quality.failure.traceback
        words = shlex.split(record.command)
        assert words[:2] == ["kvfrontier", "run"]
        answer = kvfrontier(*words[1:], "--json")
        assert answer.json["ran"] == 1
        assert [c["id"] for c in answer.json["cells"]] == [record.id]
    assert {r.status for r in load_records(tmp_path / "results")} == {"ok"}
