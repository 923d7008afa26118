"""A plan from Python: `kvfrontier.plan`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.why import explain
from kvfrontier.runners.plan.words import Asked


def plan(*said: str, why: bool = False, **asked: Any) -> list[dict[str, Any]]:
    """What models, methods and contexts take of a device that need not be there: a dictionary for each cell, with the
    keys of `kvfrontier plan --json` (sizes in bytes, times in seconds).

        plan(model="llama-3-8b", method=["dense", "kivi4"], context=131072, device="h100-80g")
        plan("model=llama-3-8b", "method=window", "method.window=1024", context=32768)

    Words and keywords are those of the command; several values of one make a product. With `why`, each row says what
    dominates its peak and what would help most. A cell that its method cannot serve has `fits` None, and its `note`
    says why. Raises UsageError, a ValueError, for what cannot be planned at all.
    """
    cells = words.read([*said, *(f"{key}={_spelt(value)}" for key, value in asked.items())])
    return [row(cell, why) for cell in cells]


def _spelt(value: Any) -> str:
    if value is None:
        return "null"
    return ",".join(map(_spelt, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)


def row(cell: Asked, why: bool = False) -> dict[str, Any]:
    """One cell's row; where the method cannot serve the model, its note says why."""
    planned, budget = Planned(cell), cell.cell.budget
    if budget is not None and budget.infeasible:
        return planned.refused(f"nothing of this method is as small as budget={budget.asked}")
    try:
        found = planned.row()
        return found | {"why": explain(planned).as_json()} if why else found
    except ValueError as error:
        return planned.refused(str(error))
