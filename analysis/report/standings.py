"""What is computed once of a board and told many times: verdicts, ranks, and the sentences drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvfrontier.analysis import frontier
from kvfrontier.analysis.frontier import Cost, Verdict
from kvfrontier.analysis.rows import Board, Column, Row
from kvfrontier.analysis.style import number, seconds, size

COSTS: tuple[Cost, ...] = ("live", "share16", "live and time")


@dataclass(frozen=True)
class Standing:
    """One context in one column: verdicts by cost and method, ranks by method, and what one would choose."""

    context: int
    column: Column
    verdicts: Mapping[Cost, Mapping[str, Verdict]]
    ranks: Mapping[str, int]
    words: str


def standings(board: Board) -> dict[tuple[str, int], Standing]:
    """Standings by column name and context, for the primary score of each task."""
    found = {}
    for column in board.headlines:
        for context in board.contexts:
            rows = board.at(context)
            if any(row.score(column) for row in rows):
                found[column.name, context] = _standing(rows, column, context)
    return found


def _standing(rows: list[Row], column: Column, context: int) -> Standing:
    comparison = frontier.compare(rows, column)
    verdicts: dict[Cost, Mapping[str, Verdict]] = {
        cost: frontier.judge(frontier.points(rows, column, cost), comparison.better) for cost in COSTS
    }
    return Standing(context, column, verdicts, comparison.ranks(), _words(rows, column, comparison, verdicts["live"]))


def _words(rows: list[Row], column: Column, comparison: frontier.Comparison, verdicts: Mapping[str, Verdict]) -> str:
    """What the front says, as one would tell it."""
    by_name = {row.method: row for row in rows}
    best = sorted((m for m, v in verdicts.items() if v.standing == "front"), key=lambda m: by_name[m].live or 0)
    if not best:
        return "No method that competes has both a score and bytes here."

    scores = {score.value for row in rows if (score := row.score(column))}
    if len(rows) > 1 and len(scores) == 1:
        return f"Every method scores {number(scores.pop())} here, so this score does not tell them apart."

    def told(name: str) -> str:
        row = by_name[name]
        score = row.score(column)
        doubt = ", within noise" if verdicts[name].within_noise else ""
        return f"{name} ({size(row.live)}, {number(score.value if score else None)}{doubt})"

    words = f"On the front, smallest first: {', '.join(map(told, best))}."
    dense = next((r for r in rows if r.info.family == "baseline" and not r.uncached and r.score(column)), None)
    if dense is None or not dense.live:
        return words
    equal = [
        r for r in rows
        if r.competes and r.live and r.live < dense.live and r.score(column)
        and comparison.better(dense.method, r.method) is False
    ]  # fmt: skip
    if not equal:
        return f"{words} Every smaller state loses to {dense.method} beyond noise."
    least = min(equal, key=lambda r: (r.live or 0, r.method))
    share = (least.live or 0) / dense.live
    pace = ""
    if least.seconds_per_token and dense.seconds_per_token:
        pace = f", at {seconds(least.seconds_per_token)} a token against {seconds(dense.seconds_per_token)}"
    return (
        f"{words} The smallest state that is not significantly worse than {dense.method} is {least.method}: "
        f"{share:.0%} of its bytes{pace}."
    )
