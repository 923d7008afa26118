"""Ranks and intervals on examples that can be checked by hand."""

from __future__ import annotations

import pytest

from kvfrontier.analysis.stats import Comparison, bootstrap, units, wilson

BEST = [1.0] * 20
GOOD = [1.0] * 14 + [0.0] * 6
POOR = [0.0] * 20


def one(values: list[float]) -> dict[str, list[float]]:
    return {"s": values}


def test_rank_is_one_more_than_the_number_of_significantly_better_methods():
    ranks = Comparison({"best": one(BEST), "twin": one(BEST), "good": one(GOOD), "poor": one(POOR)}).ranks()
    assert ranks == {"best": 1, "twin": 1, "good": 3, "poor": 4}


def test_a_gap_within_noise_shares_a_rank():
    nearly = [1.0] * 19 + [0.0]
    assert Comparison({"best": one(BEST), "nearly": one(nearly)}).ranks() == {"best": 1, "nearly": 1}


def test_pairing_finds_a_small_gap_that_is_always_there():
    noise = [float(i * 7 % 11) for i in range(20)]
    lower = [x - 0.01 for x in noise]
    assert Comparison({"a": one(noise), "b": one(lower)}).ranks() == {"a": 1, "b": 2}


def test_less_is_better_where_it_is_said():
    assert Comparison({"a": one(BEST), "b": one(POOR)}, higher=False).ranks() == {"a": 2, "b": 1}


def test_only_shared_sample_sets_are_compared():
    comparison = Comparison({"a": {"x": BEST, "y": POOR}, "b": {"y": BEST}, "c": {"z": BEST}})
    assert comparison.better("b", "a") is True
    assert comparison.better("a", "c") is None
    assert comparison.ranks() == {"a": 2, "b": 1}


def test_samples_of_unequal_number_are_not_paired():
    assert Comparison({"a": one(BEST), "b": one(POOR[:10])}).better("a", "b") is None


def test_fewer_than_five_samples_decide_nothing():
    assert Comparison({"a": one(BEST[:4]), "b": one(POOR[:4])}).better("a", "b") is None
    assert Comparison({"a": one(BEST[:5]), "b": one(POOR[:5])}).better("a", "b") is True


def test_equal_answers_are_never_better():
    third = [1 / 3] * 9
    comparison = Comparison({"a": one(third), "b": one(third)})
    assert comparison.better("a", "b") is False
    assert comparison.better("b", "a") is False


def test_wilson_of_eight_of_eight():
    assert wilson(1.0, 8) == pytest.approx((8 / (8 + 1.959964**2), 1.0), abs=1e-6)


def test_the_bootstrap_of_a_constant_is_that_constant():
    low, high = bootstrap([0.25] * 7)
    assert low == pytest.approx(0.25)
    assert high == pytest.approx(0.25)


def test_units_are_blocks_where_there_are_blocks(cell_of):
    assert len(units(cell_of("dense").quality, "perplexity") or ()) == 16
    assert units(cell_of("dense", task="needle").quality, "accuracy") == [1.0] * 8
    assert units(cell_of("dense").quality, "unheard_of") is None
    assert units(cell_of("dense", quality__samples=()).quality, "agreement") is None
