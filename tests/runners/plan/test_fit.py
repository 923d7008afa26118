from pathlib import Path

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.plan import fit

ASKED = ("model=tiny", "context=400", "chunk=64", "device=l4-24g")
RESULTS = Path(__file__).parents[3] / "results"


def test_methods_and_budgets_that_fit_are_listed(plan, tmp_path):
    rows = plan("--fit", *ASKED, "method=dense,window,snapkv", "--results", str(tmp_path / "none"))
    assert [row["method"] for row in rows if row["method"].startswith("window")] != []
    assert {"dense", "window", "window@50%", "snapkv@10%"} <= {row["method"] for row in rows}
    assert all(row["quality"] is None for row in rows)
    sizes = {row["method"]: row["state_bytes"] for row in rows}
    assert sizes["window@10%"] < sizes["window@25%"] < sizes["window@50%"] < sizes["dense"]


def test_without_a_method_all_that_need_no_training_and_do_save_are_tried():
    names = set(fit._methods())
    assert {"dense", "window", "kivi4", "snapkv", "h2o"} <= names
    assert not {"linear", "gla", "rmt"} & names


def test_what_was_measured_best_stands_first(plan):
    rows = plan(
        "--fit", *ASKED, "method=linear_interpolation,sinks,kivi4,window", "budget=50%", "--results", str(RESULTS)
    )
    scores = [row["quality"] for row in rows]
    assert scores == sorted(scores, key=lambda score: (score is None, -(score or 0)))


def test_scores_of_one_column_alone_are_compared():
    from kvfrontier.runners.record import load_records

    known = fit.measured(load_records(RESULTS), "smollm2-135m")
    assert len(known) > 5
    assert len({one.where.partition("(")[2] for one in known.values()}) == 1
    assert known["dense"].score >= known["linear"].score


def test_nothing_that_fits_says_what_to_change(capfd):
    asked = ["model=llama-3.1-405b", "context=64", "new=1", "method=window", "device=l4-24g"]
    assert cli.main(["plan", "--fit", *asked]) == 2
    assert "choose a larger device" in capfd.readouterr().err


@pytest.mark.parametrize("word", ["budget=25%", "method=window"])
def test_words_of_another_method_do_not_reach_dense(word):
    assert fit._without([*ASKED, word, "method.window=3"], "method", "budget") == list(ASKED)
