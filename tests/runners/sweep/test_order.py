"""Who runs what, and in which order."""

from __future__ import annotations

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.sweep.order import longest_first, parse_shard, shard

JOBS = [("small", 1), ("large", 2), ("small", 3), ("large", 9), ("small", 2)]


def test_the_longest_comes_first_and_a_model_is_loaded_once():
    ordered = longest_first(JOBS, lambda job: job[0], lambda job: job[1])
    assert ordered == [("large", 9), ("large", 2), ("small", 3), ("small", 2), ("small", 1)]


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_all_parts_together_have_each_key_once(of):
    costs = {f"job{i}": float(i % 5 + 1) for i in range(20)}
    parts = [shard(costs, mine, of) for mine in range(1, of + 1)]
    assert sorted(key for part in parts for key in part) == sorted(costs)
    assert parts == [shard(dict(reversed(costs.items())), mine, of) for mine in range(1, of + 1)]


def test_parts_take_about_as_long():
    costs = {f"job{i}": float(i + 1) for i in range(40)}
    took = [sum(costs[key] for key in shard(costs, mine, 4)) for mine in range(1, 5)]
    assert max(took) - min(took) <= min(costs.values())


def test_a_shard_is_a_part_of_a_number():
    assert parse_shard(None) is None
    assert parse_shard("3/8") == (3, 8)
    for wrong in ("9/8", "0/8", "3", "a/b", "3/0"):
        with pytest.raises(UsageError, match="write 1/8, 2/8"):
            parse_shard(wrong)
