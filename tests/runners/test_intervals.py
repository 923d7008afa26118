import math

import numpy as np
import pytest

from kvfrontier.runners.intervals import bootstrap, newcombe, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_of_use_where_all_answers_are_alike():
    assert wilson(8, 8) == (pytest.approx(0.6756, abs=1e-4), 1.0)
    assert wilson(0, 8) == (0.0, pytest.approx(0.3244, abs=1e-4))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_proportion_is_refused(successes, n):
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, n)


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[float], list[float]]:
    """As many pairs of answers as each cell of a fourfold table says."""
    table = [(1.0, 1.0)] * both + [(1.0, 0.0)] * first + [(0.0, 1.0)] * second + [(0.0, 0.0)] * neither
    return [x for x, _ in table], [y for _, y in table]


def test_newcombe_gives_a_published_interval():
    # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness before and after a transplantation
    assert newcombe(*pairs(1, 1, 7, 12)) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_newcombe_has_a_width_where_all_pairs_are_alike_and_narrows_where_they_go_together():
    for alike in (pairs(3, 0, 0, 0), pairs(0, 0, 0, 3), pairs(1, 0, 0, 1), pairs(2, 0, 0, 2)):
        low, high = newcombe(*alike)
        assert low < -0.1
        assert high > 0.1
    together, apart = newcombe(*pairs(20, 0, 0, 20)), newcombe(*pairs(10, 10, 10, 10))
    assert together[1] - together[0] < apart[1] - apart[0]


def test_newcombe_covers_the_truth_of_shares_at_least_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        first, later = rng.random(12) < 0.8, rng.binomial(3, 0.6, 12) / 3
        low, high = newcombe(first.astype(float).tolist(), later.tolist())
        held += low <= 0.2 <= high
    assert held / 400 >= 0.94


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), ([2.0], [0.0])])
def test_what_are_no_pairs_of_shares_is_refused(first, second):
    with pytest.raises(ValueError, match=r"proportions|zip"):
        newcombe(first, second)


def test_bootstrap_of_a_large_sample_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400).tolist()
    half = 1.96 * np.std(values) / 20
    low, high = bootstrap(values)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.03)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = sum(low <= 1 <= high for low, high in (bootstrap(rng.exponential(1, 40).tolist()) for _ in range(200)))
    assert 0.88 <= held / 200 <= 0.99


def test_bootstrap_repeats_itself_and_a_constant_has_no_width():
    values = [0.1, 0.5, 0.93, 0.27, 0.61, 0.04, 0.77]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)
    assert bootstrap([2.0] * 5) == (2.0, 2.0)


def test_a_transform_moves_the_ends_with_it():
    values = [1.0, 2.0, 4.0]
    low, high = bootstrap(values)
    assert bootstrap(values, math.exp) == pytest.approx((math.exp(low), math.exp(high)))
    assert bootstrap(values, lambda x: -x) == (-high, -low)


def test_nothing_cannot_be_resampled():
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])
