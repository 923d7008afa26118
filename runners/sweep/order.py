"""In which order jobs run, and who runs them: cells that share a model stay together, and what takes long comes first.

An order that ends early matters where several work: the last to begin should be short (longest processing time first,
Graham 1969).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kvfrontier.runners.errors import UsageError

T = TypeVar("T")


def longest_first(jobs: Sequence[T], model: Callable[[T], str], cost: Callable[[T], float]) -> list[T]:
    """Jobs of one model one after the other, so that one process loads it once; the longest first, of models too."""
    total: dict[str, float] = {}
    for job in jobs:
        total[model(job)] = total.get(model(job), 0) + cost(job)
    place = {m: i for i, m in enumerate(total)}
    return sorted(jobs, key=lambda job: (-total[model(job)], place[model(job)], -cost(job)))


def parse_shard(asked: object) -> tuple[int, int] | None:
    """`3/8` as (3, 8), or None. Raises UsageError."""
    if asked is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(asked))
    mine, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= mine <= of:
        raise UsageError(f"sweep.shard={asked} is no part of a sweep; write 1/8, 2/8 ... 8/8, one on each machine")
    return mine, of


def shard(costs: Mapping[str, float], mine: int, of: int) -> set[str]:
    """The keys of part `mine` of `of`: each key goes to the part that has the least to do so far, the longest first.
    All parts together have each key once, and it depends on nothing but the keys and costs."""
    parts: list[tuple[float, list[str]]] = [(0.0, []) for _ in range(of)]
    for key in sorted(costs, key=lambda key: (-costs[key], key)):
        i = min(range(of), key=lambda i: parts[i][0])
        parts[i] = parts[i][0] + costs[key], [*parts[i][1], key]
    return set(parts[mine - 1][1])
