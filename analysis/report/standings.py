"""What is computed once of a board and told many times: verdicts, ranks, and the sentences drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvfrontier.analysis import frontier
from kvfrontier.analysis.frontier import Cost, Verdict
from kvfrontier.analysis.rows import Board, Column, Row
from kvfrontier.analysis.stats import MARGIN, Difference, floor
from kvfrontier.analysis.style import number, percent, seconds

COSTS: tuple[Cost, ...] = ("share", "share and time", "bytes")


@dataclass(frozen=True)
class Standing:
    """One context in one column: verdicts by cost and method, ranks and differences from dense by method, and what one
    would choose. `floor`: the score that dense misses where the model itself cannot do the task; there are no
    verdicts then, no ranks and no differences."""

    context: int
    column: Column
    verdicts: Mapping[Cost, Mapping[str, Verdict]]
    ranks: Mapping[str, int]
    words: str
    differences: Mapping[str, Difference] = field(default_factory=dict)
    floor: float | None = None


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
    dense = next((row for row in rows if row.dense and row.score(column)), None)
    if dense is not None and (least := _floor(dense, column)) is not None:
        nothing: dict[Cost, Mapping[str, Verdict]] = {cost: {} for cost in COSTS}
        return Standing(context, column, nothing, {}, _words_below(dense, column, least), floor=least)
    found = {row.method: comparison.difference(row.method, dense.method) for row in rows if dense not in (None, row)}
    differences = {method: difference for method, difference in found.items() if difference}
    words = _words(rows, column, comparison, verdicts["share"], dense)
    return Standing(context, column, verdicts, comparison.ranks(), words, differences)


def _floor(dense: Row, column: Column) -> float | None:
    score = dense.score(column)
    return floor(score.value, dense.answers[column].parts[0].chance) if score else None


def _words_below(dense: Row, column: Column, least: float) -> str:
    score = dense.score(column)
    assert score is not None
    return (
        f"The model itself cannot do this task here: {dense.method} scores {number(score.value)}, and less than "
        f"{number(least)} is read as noise. No ranks, and no differences."
    )


def _words(
    rows: list[Row],
    column: Column,
    comparison: frontier.Comparison,
    verdicts: Mapping[str, Verdict],
    dense: Row | None,
) -> str:
    """What the front by share says, as one would tell it."""
    scores = {row.method: score.value for row in rows if (score := row.score(column))}
    shares = {row.method: row.held(column).share for row in rows if row.method in scores}
    best = sorted((m for m, v in verdicts.items() if v.standing == "front"), key=lambda m: shares[m] or 0)

    def told(name: str) -> str:
        doubt = ", within noise" if verdicts[name].within_noise else ""
        return f"{name} ({percent(shares[name])}, {number(scores[name])}{doubt})"

    if len(scores) == 1:
        ((only, value),) = scores.items()
        return f"{only} alone has this score here: {number(value)}."
    if len(set(scores.values())) == 1:
        same = number(next(iter(scores.values())))
        return f"All {len(scores)} methods score {same} here, so this score does not tell them apart."
    if not best:
        return "No method that competes has both a score and a share here."
    words = f"On the front, smallest first: {', '.join(map(told, best))}."
    whole = dense and shares[dense.method]
    if dense is None or not whole:
        return words
    equal = [
        row for row in rows
        if row.method in scores and row.competes and not row.external
        and (share := shares[row.method]) is not None and share < whole
        and comparison.better(dense.method, row.method) is False
    ]  # fmt: skip
    if not equal:
        return f"{words} Every smaller state loses to {dense.method} beyond noise."
    least = min(equal, key=lambda r: (shares[r.method] or 0, r.method))
    pace = ""
    if least.seconds_per_token and dense.seconds_per_token:
        pace = f", at {seconds(least.seconds_per_token)} a token against {seconds(dense.seconds_per_token)}"
    return (
        f"{words} The smallest state that is not significantly worse than {dense.method} is {least.method}: "
        f"{percent(shares[least.method])} of dense attention's{pace}. {_lossless(equal, dense, comparison)}"
    )


def _lossless(rows: list[Row], dense: Row, comparison: frontier.Comparison) -> str:
    """Of which methods it is shown that they lose nothing, and of how many it is not."""
    found = [(row.method, comparison.difference(row.method, dense.method)) for row in rows]
    shown = [method for method, difference in found if difference and difference.equivalent()]
    within = f"within {MARGIN:g} of {dense.method} (two one-sided tests, paired bootstrap, 5% each)"
    if not shown:
        return f"Of none of them is it shown that it lies {within}; that takes at least {round(3 / MARGIN)} samples."
    return f"Shown to lie {within}: {', '.join(shown)}."
