"""Pareto fronts: which methods nothing beats in both quality and cost, and what beats the others.

The rule. A dominates B where A is at least as good and costs no more in every respect, and is strictly better in one.
Values are compared as measured, so methods that tie in everything are on the front together. A method that needs
training and has had none, one that only simulates its saving, and one that caches nothing do not compete: they are
never on the front and dominate nothing, but what dominates them is said.

A score's bytes are those of the runs that gave it (rows.Held). Bytes are exact and quality is not. A verdict is
`within_noise`
- on the front: where a cheaper method is not significantly worse, so that the place rests on noise;
- dominated: where every dominator scores higher, but by no more than noise.
Times are compared by their medians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kvfrontier.analysis.rows import Column, Row
from kvfrontier.analysis.stats import Comparison, units

Standing = Literal["front", "dominated", "reference"]
Better = Callable[[str, str], bool | None]
#: Of the runs that gave the score: the state's share of dense's at seal, both at 16 bits; its bytes as run when the
#: last token had been scored; the share, and seconds a decoded token.
Cost = Literal["share", "bytes", "share and time"]


@dataclass(frozen=True)
class Point:
    """A method's quality (more is better) and costs (less is better)."""

    name: str
    quality: float
    costs: tuple[float, ...]
    competes: bool = True


@dataclass(frozen=True)
class Verdict:
    """`by`: the methods on the front that dominate this one, the cheapest first."""

    standing: Standing
    by: tuple[str, ...] = ()
    within_noise: bool = False

    @property
    def words(self) -> str:
        noise = " (within noise)" if self.within_noise else ""
        if self.standing == "front":
            return f"on the front{noise}"
        if self.standing == "dominated":
            return f"dominated by {', '.join(self.by)}{noise}"
        return "does not compete" + (f"; dominated by {', '.join(self.by)}" if self.by else "")


def dominates(a: Point, b: Point) -> bool:
    """Whether a is nowhere worse than b and somewhere better."""
    nowhere_worse = a.quality >= b.quality and all(x <= y for x, y in zip(a.costs, b.costs, strict=True))
    return nowhere_worse and (a.quality > b.quality or a.costs != b.costs)


def front(points: Sequence[Point]) -> list[Point]:
    """Competing points that no competing point dominates, the cheapest first."""
    field = [p for p in points if p.competes]
    return sorted((p for p in field if not any(dominates(q, p) for q in field)), key=_cheapest)


def judge(points: Sequence[Point], better: Better = lambda a, b: None) -> dict[str, Verdict]:
    """A verdict for each point. `better(a, b)` says whether a's quality is significantly above b's; None: unknown."""
    best = front(points)
    verdicts = {}
    for point in points:
        above = [p for p in best if dominates(p, point)]
        by = tuple(p.name for p in above)
        if not point.competes:
            verdicts[point.name] = Verdict("reference", by)
        elif above:
            sure = any(p.quality == point.quality or better(p.name, point.name) for p in above)
            verdicts[point.name] = Verdict("dominated", by, within_noise=not sure)
        else:
            verdicts[point.name] = Verdict("front", within_noise=_rests_on_noise(point, points, better))
    return verdicts


def _rests_on_noise(point: Point, points: Sequence[Point], better: Better) -> bool:
    """Whether some point that costs no more, and less somewhere, is worse by no more than noise."""
    return any(
        other.competes
        and other.costs != point.costs
        and all(x <= y for x, y in zip(other.costs, point.costs, strict=True))
        and not better(point.name, other.name)
        for other in points
    )


def _cheapest(point: Point) -> tuple[tuple[float, ...], float, str]:
    return (point.costs, -point.quality, point.name)


# Rows


def points(rows: Sequence[Row], column: Column, cost: Cost = "share") -> list[Point]:
    """Rows of one context as points. Rows that lack the score or the cost are left out."""
    found = []
    for row in rows:
        score, costs = row.score(column), _costs(row, column, cost)
        if score is None or math.isnan(score.value) or costs is None:
            continue
        quality = score.value if column.higher_is_better else -score.value
        # Recomputing pays in time what it saves in bytes, so it competes where both are counted. A share is taken at
        # seal, where a text memory is text: its cache comes with the question.
        if row.uncached:
            competes = cost == "share and time"
        else:
            competes = row.competes and (cost == "bytes" or not row.external)
        found.append(Point(row.method, quality, costs, competes))
    return found


def _costs(row: Row, column: Column, cost: Cost) -> tuple[float, ...] | None:
    held = row.held(column)
    found = {
        "share": (held.share,),
        "bytes": (held.final,),
        "share and time": (held.share, row.seconds_per_token),
    }[cost]
    known = tuple(c for c in found if c is not None)
    return known if len(known) == len(found) else None


def compare(rows: Sequence[Row], column: Column) -> Comparison:
    """The paired comparison of the rows of one context in one column."""
    results: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.score(column) is not None:
            found = {part.sample_set: units(part, column.score) for part in row.answers[column].parts}
            results[row.method] = {s: values for s, values in found.items() if values}
    return Comparison(results, higher=column.higher_is_better)


def verdicts(rows: Sequence[Row], column: Column, cost: Cost = "share") -> dict[str, Verdict]:
    """Verdicts by method for the rows of one context."""
    return judge(points(rows, column, cost), compare(rows, column).better)
