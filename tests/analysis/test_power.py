"""Sample sizes against textbook numbers, and against experiments that are run."""

from __future__ import annotations

import numpy as np
import pytest

from kvfrontier.analysis.power import measured_spread, samples_to_equal, samples_to_tell, worst_spread
from kvfrontier.analysis.stats import Comparison, Difference, floor


def test_sizes_are_the_textbook_s():
    # (1.959964 + 0.841621)^2 = 7.848880 at 80% power; (1.959964 + 1.281552)^2 = 10.507423 at 90%.
    assert samples_to_tell(0.5, 0.1) == 393  # 392.44
    assert samples_to_tell(0.5, 0.1, power=0.9) == 526  # 525.37
    assert samples_to_tell(0.25, 0.5) == 8  # 7.85
    # (1.644854 + 1.281552)^2 = 8.563852
    assert samples_to_equal(0.5, 0.1) == 429  # 428.19
    assert samples_to_equal(0.0001, 0.1) == 30  # the rule of three
    assert samples_to_tell(0.0001, 0.1) == 5


def test_the_worst_case_is_two_independent_answers_near_one_half():
    p, q = 0.55, 0.45
    assert worst_spread(0.1) == pytest.approx(p * (1 - p) + q * (1 - q))


def test_a_measured_spread_is_the_variance_and_of_equal_answers_what_they_leave_open():
    assert measured_spread([1.0, 0.0, 0.0, -1.0]) == pytest.approx(2 / 3)
    assert measured_spread([0.0] * 30) == pytest.approx(0.1)
    assert measured_spread([0.0, 0.0]) == 0.5


def experiments(n: int, p: float, q: float, times: int) -> list[Difference]:
    rng = np.random.default_rng(7)
    made = []
    for _ in range(times):
        a, b = rng.random(n) < p, rng.random(n) < q
        found = Comparison({"a": {"s": a.astype(float).tolist()}, "b": {"s": b.astype(float).tolist()}}).difference(
            "a", "b"
        )
        assert found is not None
        made.append(found)
    return made


def test_with_so_many_samples_four_of_five_experiments_see_the_difference():
    n = samples_to_tell(worst_spread(0.3), 0.3)
    seen = [d.separable for d in experiments(n, 0.65, 0.35, 300)]
    assert 0.72 < np.mean(seen) < 0.87  # three standard errors


def test_with_so_many_samples_four_of_five_experiments_show_that_there_is_none():
    n = samples_to_equal(0.5, 0.2)
    shown = [d.equivalent(0.2) for d in experiments(n, 0.5, 0.5, 300)]
    assert 0.71 < np.mean(shown) < 0.88


def test_a_true_difference_of_the_margin_is_seldom_called_nothing():
    n = samples_to_equal(0.5, 0.2)
    assert np.mean([d.equivalent(0.2) for d in experiments(n, 0.6, 0.4, 300)]) < 0.09


def test_few_equal_answers_show_nothing_and_many_do():
    def equal(n: int) -> Difference:
        found = Comparison({"a": {"s": [1.0] * n}, "b": {"s": [1.0] * n}}).difference("a", "b")
        assert found is not None
        return found

    assert not equal(149).equivalent(0.02)
    assert equal(150).equivalent(0.02)
    assert not equal(150).separable


def test_a_difference_is_positive_where_a_is_better_also_where_less_is():
    found = Comparison({"a": {"s": [1.0] * 6}, "b": {"s": [1.5] * 6}}, higher=False).difference("a", "b")
    assert found is not None
    assert found.n == 6
    assert [found.mean, found.low, found.high, found.low90, found.high90] == pytest.approx([0.5] * 5)


@pytest.mark.parametrize(
    ("dense", "chance", "least"),
    [(0.19, 0.0, 0.2), (0.2, 0.0, None), (0.45, 0.25, 0.5), (0.5, 0.25, None), (0.01, None, None)],
)
def test_the_floor_is_twice_chance_and_at_least_a_fifth(dense, chance, least):
    assert floor(dense, chance) == least
