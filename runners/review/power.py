"""How many samples it takes to tell two methods apart in a task: `kvfrontier power`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kvfrontier.analysis import frontier, power
from kvfrontier.analysis.boards import boards
from kvfrontier.runners import tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words
from kvfrontier.runners.record import load_records
from kvfrontier.runners.tables import show_table


@dataclass(frozen=True)
class Needed:
    """What it takes in one setting. `method` against dense at `context` of `model`, where records say how much their
    answers differ; else the worst case, and these are None.

    n, difference, deviation   recorded paired results, their mean difference (more is better) and standard deviation
    to_tell                    samples to tell `delta` from zero
    to_equal                   samples to show that they are within it, where they do not differ
    """

    method: str | None
    model: str | None
    context: int | None
    n: int | None
    difference: float | None
    deviation: float
    to_tell: int
    to_equal: int


def needed(task: tasks.Task, delta: float, records: Sequence[Path], only: dict[str, str]) -> list[Needed]:
    """The worst case, and what records of the task say; `only` holds the model and context that were named. Raises
    UsageError where records are named and none is of this task."""
    worst = _needed(None, None, None, None, None, power.worst_spread(delta), delta)
    if not records:
        return [worst]
    found = list(_measured(task, delta, records, only))
    if not found:
        raise UsageError(
            f"no record in {', '.join(map(str, records))} compares a method with dense in {task.name} with hash "
            f"{task.hash()}; leave --records out for the worst case"
        )
    return [worst, *found]


def _measured(task: tasks.Task, delta: float, paths: Sequence[Path], only: dict[str, str]) -> Iterator[Needed]:
    records = [
        r
        for r in load_records(*paths)
        if r.quality.task_hash == task.hash()
        and only.get("model", r.cell.model) == r.cell.model
        and only.get("context", str(r.cell.context)) == str(r.cell.context)
    ]
    for board in boards(records) if records else ():
        for column in board.headlines:
            for context in board.contexts:
                rows = board.at(context)
                dense = next((r.method for r in rows if r.dense), None)
                compared = frontier.compare(rows, column)
                for row in rows:
                    values = compared.paired(row.method, dense) if dense else []
                    if row.method != dense and len(values) > 1:
                        mean = sum(values) / len(values)
                        spread = power.measured_spread(values)
                        yield _needed(row.method, board.setting.model, context, len(values), mean, spread, delta)


def _needed(
    method: str | None,
    model: str | None,
    context: int | None,
    n: int | None,
    difference: float | None,
    spread: float,
    delta: float,
) -> Needed:
    to_tell, to_equal = power.samples_to_tell(spread, delta), power.samples_to_equal(spread, delta)
    return Needed(method, model, context, n, difference, spread**0.5, to_tell, to_equal)


def show(asked: Sequence[str], records: Sequence[Path], *, as_json: bool) -> None:
    """Print how many samples KEY=VALUE words ask for: those of a task, delta=0.05, and model and context to keep to.
    Raises UsageError."""
    values = words.split(asked, {"delta": "0.05"})
    if several := [key for key, found in values.items() if len(found) != 1]:
        raise UsageError(f"{several[0]}={','.join(values[several[0]])}: give one value")
    single = {key: found[0] for key, found in values.items()}
    delta = _share(single.pop("delta"))
    task = tasks.make(words.composer()([f"{key}={value}" for key, value in single.items()]).config["task"])
    found = needed(task, delta, records, single)
    if as_json:
        about = {"task": task.name, "task_hash": task.hash(), "delta": delta}
        print(json.dumps([{**about, **asdict(one)} for one in found]))
        return
    columns = ("method", "model", "context", "recorded", "difference", "deviation", "to tell it", "to show equal")
    rows = [
        (
            one.method or "worst case: two right-or-wrong answers, independent",
            one.model or "",
            str(one.context or ""),
            str(one.n or ""),
            "" if one.difference is None else f"{one.difference:+.3f}",
            f"{one.deviation:.3f}",
            f"{one.to_tell:,}",
            f"{one.to_equal:,}",
        )
        for one in found
    ]
    show_table(f"{task.name}: samples for a difference of {delta:g} from dense", columns, rows, numbers=columns[2:])
    sure = f"{power.POWER:.0%} power"
    print(
        f"To tell it: {power.CONFIDENCE:.0%} confidence, {sure}, on the same samples. To show equal: two one-sided "
        f"tests at 5%, margin {delta:g}, {sure}. Of a text, a sample is a block of tokens."
    )


def _share(given: str) -> float:
    try:
        delta = float(given)
    except ValueError:
        delta = 0.0
    if not 0 < delta < 1:
        raise UsageError(f"delta={given} must lie between 0 and 1, as 0.05")
    return delta
