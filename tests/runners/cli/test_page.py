"""kvfrontier report, figure and table, on records that are published."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from kvfrontier.runners import cli, facts
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import canonical_json, load_records

QUICKSTART = Path(__file__).parents[3] / "results" / "cpu-2core" / "quickstart"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods of the published sweep."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("dense", "sinks", "kivi4"):
        (file,) = QUICKSTART.glob(f"smollm2-135m-{name}-*.jsonl")
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def test_figures_and_tables_are_listed_by_name(results, capsys) -> None:
    names = {one["name"] for one in json.loads(said(capsys, "figure", str(results), "--json"))}
    assert {"frontier", "frontier_bytes", "decode_time", "state_bytes", "needles"} <= names
    assert "leaderboard" in said(capsys, "table", str(results))


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_figure_comes_in_every_format_and_the_same_twice(results, tmp_path, capsys, kind, start) -> None:
    made = []
    for i in range(2):
        target = tmp_path / f"{i}.{kind}"
        said(capsys, "figure", "state_bytes", str(results), "--format", kind, "-o", str(target))
        made.append(target.read_bytes())
    assert made[0].startswith(start)
    assert made[0] == made[1]


def test_a_table_comes_in_every_format(results, capsys) -> None:
    words = ("table", "leaderboard", str(results), "--context", "1024", "--columns", "agreement,flags")
    latex, markdown, raw = (said(capsys, *words, "--format", kind) for kind in ("latex", "markdown", "csv"))
    assert r"\begin{tabular}{l" in latex and latex.count(r" \\") == 4 and r"\bottomrule" in latex
    assert markdown.startswith("| method |") and len(markdown.splitlines()) == 5
    read = list(csv.DictReader(io.StringIO(raw)))
    assert [line["method"] for line in read] == ["dense", "sinks", "kivi4"]
    assert read[0]["perplexity: agreement"].startswith("1.000")
    assert json.loads(said(capsys, *words, "--json")) == read


def test_latex_holds_no_character_that_it_would_read_as_a_command(results, capsys) -> None:
    text = said(capsys, "table", "leaderboard", str(results), "--format", "latex")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert not any(mark in line.replace("\\" + mark, "") for line in body for mark in "%_#$" if mark != "$")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("figure", "frontir"), "did you mean 'frontier'?"),
        (("table", "leaderbord"), "did you mean 'leaderboard'?"),
        (("table", "leaderboard", "--columns", "nonsense"), "no column of leaderboard has 'nonsense'"),
        (("table", "leaderboard", "--context", "7"), "no line at context 7"),
    ],
)
def test_what_does_not_exist_is_told(results, capsys, words, problem) -> None:
    assert cli.main([words[0], words[1], str(results), *words[2:]]) == 2
    assert problem in capsys.readouterr().err


def test_facts_hold_formula_source_and_sizes_of_each_method(results) -> None:
    records = load_records(results)
    found = facts.gather(records, ["tiny"])
    kivi = next(r for r in records if r.info.label == "kivi4" and r.cell.context == 1024)
    told = found["methods"][canonical_json(kivi.cell.method)]
    assert told["source"].startswith("methods/") and told["cost"] and told["description"]
    planner = found["planner"]
    assert set(planner["models"]) == {"smollm2-135m", "tiny"}
    held, _, read = planner["sizes"]["smollm2-135m"][canonical_json(kivi.cell.method)][planner["contexts"].index(1024)]
    # The run was in float32: its residual and scales take twice as much there.
    in_float32 = (kivi.memory.analytic_payload or 0) + (kivi.memory.analytic_slack or 0)
    assert held < in_float32 < 2 * held
    assert read <= held


def test_facts_of_a_model_that_does_not_exist_are_a_usage_error(results) -> None:
    with pytest.raises(UsageError, match="llama"):
        facts.gather(load_records(results), ["llama-3-8bb"])
