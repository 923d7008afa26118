"""What the suite is made of: items, the most valuable first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvfrontier.runners.gpu_suite.bench import Bench


@dataclass(frozen=True)
class Item:
    """One thing that is asked.

    name     `part/what/of what/how large`, unique, by which it is found again
    act      gives what it found; raises ValueError or ImportError where it cannot run here
    rank     the lower, the sooner: what all else rests on, what the targets ask, the rest
    seconds  that it is thought to take; it is not begun where less is left
    limit    seconds after which it is ended
    """

    part: str
    name: str
    act: Callable[[Bench], dict[str, Any]]
    rank: int
    seconds: float = 2.0
    limit: float = 60.0


def all_items(bench: Bench, only: Iterable[str]) -> Iterator[Item]:
    """Those of the parts that are asked for, in order."""
    from kvfrontier.runners.gpu_suite import checks, curves, families, quality, traces, walls

    rooms = {
        "checks": checks, "curves": curves, "families": families, "walls": walls, "quality": quality, "traces": traces,
    }  # fmt: skip
    found = [item for part in only for item in rooms[part].items(bench)]
    yield from sorted(found, key=lambda item: item.rank)
