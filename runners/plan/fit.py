"""The inverse question: which methods, and at which budgets, fit a device at a context; best measured quality first.

The state is each method's own, in closed form; the rest of the peak is taken from dense attention's run, so that the
whole list takes one run. Where a line decides, plan it by itself: that peak is exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvfrontier.methods import registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.record import Record, load_records

#: Shares of dense that methods with a knob are tried at, beside their usual settings.
BUDGETS = ("50%", "25%", "10%")


@dataclass(frozen=True)
class Measured:
    """A method's quality in the column of records that knows most methods."""

    score: float
    where: str


def fitting(asked: Sequence[str], results: Path) -> list[dict[str, Any]]:
    """A row for each method and budget that fits. `asked` are the words of a plan; without method= all methods that
    need no training and really save are tried. Raises UsageError as `words.read` does."""
    dense, *more = words.read([*_without(asked, "method", "budget"), "method=dense"])
    if more:
        raise UsageError("--fit answers for one model, device and context at a time; only method= takes several values")
    known = measured(load_records(results), _model(asked)) if results.exists() else {}
    dense = Planned(dense)
    peak = max(map(dense.on_device, (dense.peaks.prefill_parts, dense.peaks.decode_parts)))
    rest = peak - dense.held_on_device(dense.asked.cell.context, dense.asked.cell.batch)
    rows = [row for planned in _candidates(asked) if (row := _row(planned, rest, known)) is not None]
    # Some choices are another's name at its usual settings.
    rows = list({row["method"]: row for row in rows}.values())
    return sorted(rows, key=lambda row: (row["quality"] is None, -(row["quality"] or 0.0), row["peak_bytes"]))


def _model(asked: Sequence[str]) -> str:
    return next((word.partition("=")[2] for word in asked if word.startswith("model=")), "")


def _without(asked: Sequence[str], *keys: str) -> list[str]:
    return [word for word in asked if word.partition("=")[0].partition(".")[0] not in keys]


def _candidates(asked: Sequence[str]) -> Iterator[Planned]:
    chosen = [word for word in asked if word.partition("=")[0] == "method"]
    methods = chosen[0].partition("=")[2].split(",") if chosen else _methods()
    budgets = [] if any(word.startswith("budget=") for word in asked) else [f"budget={share}" for share in BUDGETS]
    rest = [word for word in asked if word not in chosen]
    for method in methods:
        try:
            (one,) = words.read([*rest, f"method={method}"])
            yield from (Planned(one), *_within(one, [*rest, f"method={method}"], budgets))
        except ValueError:  # this method does not serve this model
            continue


def _within(one: words.Asked, asked: Sequence[str], budgets: Sequence[str]) -> Iterator[Planned]:
    """The method at each budget that it can meet. A residual is no way to a budget: it goes in steps, and what such a
    store holds is decided by its bits."""
    method = registry.build(one.cell.method)
    if method.knob is None or method.knob_step > 1:
        return
    for budget in budgets:
        (smaller,) = words.read([*asked, budget])
        if smaller.cell.budget is not None and not smaller.cell.budget.infeasible:
            yield Planned(smaller)


def _methods() -> Iterator[str]:
    """Choices that a pretrained model can use, and that save what they say."""
    compose.register()
    for name in compose.names("method"):
        method = registry.build(registry.complete(compose.choice("method", name)))
        if not method.needs_training and not method.simulated:
            yield name


def _row(planned: Planned, rest: int, known: dict[str, Measured]) -> dict[str, Any] | None:
    """None where it does not fit, or does not serve the model."""
    asked = planned.asked
    cell = asked.cell
    try:
        for layer in planned.layers:
            planned.method.validate(layer)
        peak = rest + planned.held_on_device(cell.context, cell.batch)
        state = footprint(planned.method, planned.layers, cell.batch, cell.context - asked.new, asked.new).held.payload
    except ValueError:
        return None
    if peak > asked.hardware.memory:
        return None
    label = cells.method_label(cell)
    found = known.get(label)
    return {
        "method": label,
        "state_bytes": state,
        "peak_bytes": peak,
        "quality": found.score if found else None,
        "measured": found.where if found else "",
    }


def measured(records: Iterable[Record], model: str) -> dict[str, Measured]:
    """Quality by a method's label: the primary scores of one column, the one of this model, or else of any, that knows
    most methods. Scores of several columns are never put in one order."""
    columns: dict[tuple[bool, str, str, str, int], dict[str, Record]] = defaultdict(dict)
    for record in records:
        quality, cell = record.quality, record.cell
        if quality.status == "ok" and quality.primary in quality.scores:
            of = (cell.model == model, cell.model, cells.task_label(cell), quality.task_hash, cell.context)
            columns[of][cells.method_label(cell)] = record
    if not columns:
        return {}
    column = max(columns, key=lambda of: (of[0], len(columns[of]), of[-1]))
    _, named, task, _, context = column
    found = {}
    for label, record in columns[column].items():
        score = record.quality.scores[record.quality.primary]
        value = score.value if score.higher_is_better else -score.value
        where = f"{record.quality.primary} {score.value:.3f} ({task}, {named}, {context} tokens)"
        found[label] = Measured(value, where)
    return found
