"""Running comparisons: what is run, what is not, and that verdicts come of records alone."""

from __future__ import annotations

import json

import pytest

from kvfrontier.analysis.reproduce.comparison import names
from kvfrontier.runners import cli
from kvfrontier.runners.record import load_records
from kvfrontier.runners.reproduce.cases import Composing
from kvfrontier.runners.reproduce.run import PAGE, TABLE, Reproduction, known


@pytest.mark.slow
def test_every_cell_of_every_comparison_can_be_made() -> None:
    """Composed and described, budgets solved: nothing of a sweep of an hour is misspelt."""
    from kvfrontier.analysis.reproduce.comparison import scale

    composing = Composing(scale("cpu"))
    for name in names():
        asked = known(name)
        cases = composing.cases(asked, "cpu")
        told = [asked.identity for asked in cases.cells.values()]
        assert len(set(told)) == len(told), f"{name}: two of its cases are one cell"
        budgets = {key: asked.cell.budget for key, asked in cases.cells.items()}
        unsolved = [key for key, budget in budgets.items() if budget and budget.infeasible]
        assert not unsolved, f"{name}: no setting is within the budget of {unsolved}"


def test_a_comparison_is_run_once_and_judged_from_its_records(reproduction, monkeypatch) -> None:
    run: Reproduction = reproduction("attention-sinks")
    assert len(run.missing({})) == 3
    assert run.execute(lambda _: None) == 0
    assert len(load_records(run.folder)) == 3
    judged = run.judged()
    run.write(judged)
    monkeypatch.setattr(Reproduction, "_run", lambda self, missing: pytest.fail("ran again") if missing else None)
    assert run.execute(lambda _: None) == 0
    assert [j.statements for j in run.judged()] == [j.statements for j in judged]
    found = json.loads((run.folder / TABLE).read_text())
    (one,) = found["comparisons"]
    assert one["verdict"] == judged[0].verdict and one["name"] in (run.folder / PAGE).read_text()
    # Random weights have no sinks to rescue: whatever the verdict, it is of numbers that were measured.
    assert all(case["n"] == 8 for case in one["cases"])


def test_a_verdict_that_was_written_by_hand_does_not_stay(kvfrontier_command, reproduction, words) -> None:
    run = reproduction("cache-sizes")
    run.execute(lambda _: None)
    run.write(run.judged())
    file = run.folder / TABLE
    file.write_text(file.read_text().replace('"holds"', '"fails"'))
    assert kvfrontier_command("cache-sizes", *words, "--judge", "--results", str(run.folder)) == 0
    assert json.loads(file.read_text())["comparisons"][0]["verdict"] == "holds"


def test_a_folder_holds_verdicts_of_one_model(kvfrontier_command, reproduction) -> None:
    run = reproduction("cache-sizes")
    run.execute(lambda _: None)
    run.write(run.judged())
    assert kvfrontier_command("cache-sizes", "--judge", "--results", str(run.folder)) == 2


def test_where_the_model_cannot_do_the_task_the_rest_is_not_run(tmp_path) -> None:
    words = ("model=tiny", "context=512", "task.samples=5", "meter.decode_tokens=2")
    run = Reproduction.of(["int4-is-free"], "cpu", words, tmp_path)
    said: list[str] = []
    run.execute(said.append)
    assert [r.info.label for r in load_records(tmp_path)] == ["dense"]
    assert "int4-is-free cannot be tested here: dense scores 0" in said[0]
    assert run.judged()[0].verdict == "cannot be tested here"


def test_what_cannot_be_tested_is_said_before_the_run(capsys, tmp_path) -> None:
    assert cli.main(["reproduce", "lra-listops", "mqar-state", "--results", str(tmp_path), "--dry-run", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["comparisons"]}
    assert "trained" in rows["lra-listops"]["cannot"] and rows["lra-listops"]["cells"] == 0


@pytest.mark.parametrize("asked", [["no-such"], ["--all", "attention-sinks"], ["--all", "--scale", "tpu"]])
def test_bad_usage_is_one_sentence(asked, capsys) -> None:
    assert cli.main(["reproduce", *asked]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def kvfrontier_command(capsys):
    return lambda *args: cli.main(["reproduce", *args])
