"""What a sweep prints: what it would do, and what it did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners.record import Cell, Record, Score, Search
from kvfrontier.runners.sweep.cells import Plan, Planned
from kvfrontier.runners.sweep.forecast import Forecast, Forecasts
from kvfrontier.runners.sweep.pace import duration
from kvfrontier.runners.tables import show_table

_STATES = ("to run", "impossible", "will not fit", "recorded")


def plan(planned: Plan, forecasts: Forecasts, as_json: bool) -> None:
    """Which jobs would run, with which cells, what these take, and which records exist."""
    found = forecasts.all()
    if as_json:
        rows = [
            {"id": c.id, "state": _state(c, found[c.id]), "status": c.record.status if c.record else None}
            | {"reason": c.refusal, "forecast": found[c.id].plain}
            | c.cell.model_dump()
            for c in planned.cells
        ]
        total = _total([found[c.id] for c in planned.cells if c.to_run and not c.refusal])
        print(json.dumps({"jobs": len(planned.jobs), "seconds": total[0], "unknown": total[1], "cells": rows}))
        return
    counts = Counter(_state(c, found[c.id]) for c in planned.cells)
    states = [state for state in _STATES if counts[state] or state in ("to run", "recorded")]
    rows = []
    for members in _in_order(planned):
        first, own = members[0].cell, Counter(_state(c, found[c.id]) for c in members)
        contexts = ("sought" if c.cell.search and not c.cell.context else c.cell.context for c in members)
        tasks = (cells.task_label(c.cell) for c in members)
        named = first.model, cells.method_label(first), _listed(contexts), _listed(tasks)
        to_run = [found[c.id] for c in members if c.to_run and not c.refusal]
        sizes = _range([found[c.id].state for c in members]), _range([found[c.id].peak for c in members])
        rows.append((*named, *(str(own[state]) for state in states), *sizes, _time(to_run)))
    columns = ("model", "method", "contexts", "tasks", *states, "state", "peak", "time")
    show_table(_jobs(len(planned.jobs)), columns, rows, numbers=(*states, "state", "peak", "time"))
    print("cells " + ", ".join(f"{state}: {counts[state]}" for state in states))
    to_run = [found[c.id] for c in planned.cells if c.to_run and not c.refusal]
    if to_run:
        print(f"time: {_time(to_run) or 'unknown, for no record here is of this model and device'}")
    if unpredicted := sum(f.peak is None and f.state is not None for f in to_run):
        print(f"peak: not predicted of {unpredicted} cells to run; --predict does it")
    for why, refused in _by_reason(planned.cells).items():
        print(f"impossible: {_listed(cells.name(c.cell) for c in refused)}: {why}")
    for c in planned.cells:
        if _state(c, found[c.id]) == "will not fit":
            print(f"will not fit: {cells.name(c.cell)}: {found[c.id].why_not}")


def _in_order(planned: Plan) -> list[list[Planned]]:
    """All cells by job: those to run as they will run, then those that are recorded whole."""
    groups = {g[0].group: g for g in planned.grouped(planned.cells)}
    first = [job.cells[0].group for job in planned.jobs]
    return [groups[key] for key in (*first, *(key for key in groups if key not in first))]


def _state(c: Planned, forecast: Forecast) -> str:
    """An impossible cell is recorded as infeasible when the sweep is run; one that will not fit is tried all the same,
    for out of memory is a result."""
    if not c.to_run:
        return "recorded"
    return "impossible" if c.refusal else "will not fit" if forecast.fits is False else "to run"


def _total(forecasts: Sequence[Forecast]) -> tuple[float, int]:
    """Seconds of those that are known, and how many are not."""
    known = [f.seconds for f in forecasts if f.seconds is not None]
    return sum(known), len(forecasts) - len(known)


def _time(forecasts: Sequence[Forecast]) -> str:
    seconds, unknown = _total(forecasts)
    if unknown == len(forecasts):
        return ""
    return ("at least " if unknown else "") + duration(seconds)


def _range(sizes: Iterable[int | None]) -> str:
    known = sorted(size for size in sizes if size is not None)
    if not known:
        return ""
    low, high = (f"{size / 2**20:,.2f}" for size in (known[0], known[-1]))
    return f"{low} MiB" if low == high else f"{low} to {high} MiB"


def _jobs(n: int) -> str:
    return {0: "nothing to run", 1: "1 job to run"}.get(n, f"{n} jobs to run")


def _by_reason(planned: Iterable[Planned]) -> dict[str, list[Planned]]:
    found: dict[str, list[Planned]] = {}
    for c in planned:
        if c.refusal:
            found.setdefault(c.refusal, []).append(c)
    return found


def results(found: Sequence[tuple[Planned, Record | None]], as_json: bool) -> None:
    """Every cell with what came of it."""
    ran = sum(c.to_run for c, _ in found)
    failed = sum(r is None or r.status == "failed" for _, r in found)
    if as_json:
        rows = [
            {"id": r.id if r else c.id, "ran": c.to_run, "status": r.status if r else "failed", "reason": _reason(r)}
            | c.cell.model_dump()
            | {"scores": {k: s.value for k, s in r.quality.scores.items()} if r else {}}
            | ({"found": r.search.model_dump(), "limit": r.limit and r.limit.model_dump()} if r and r.search else {})
            for c, r in found
        ]
        print(json.dumps({"ran": ran, "recorded": len(found) - ran, "failed": failed, "cells": rows}))
        return
    rows = [
        (cells.method_label(c.cell), cells.task_label(c.cell), _context(c.cell, r), *_figures(r), _status(r))
        for c, r in found
    ]
    columns = ("method", "task", "context", "score", "live", "share16", "TTFT", "decode", "status")
    show_table(None, columns, rows, numbers=columns[2:-1])
    print(f"cells run: {ran}, recorded before: {len(found) - ran}, failed: {failed}")


def _context(cell: Cell, record: Record | None) -> str:
    """Of a search for it, what was found."""
    found = record.search if record else None
    return str(found.found or "") if found and found.kind == "max_context" else str(cell.context)


def _found(search: Search) -> str:
    """What a search found, what stopped it, and what was predicted."""
    if search.found is None:
        return ""
    size = f"batch {search.found}, " if search.kind == "max_throughput" else ""
    return f"{size}{search.bound} (predicted {search.predicted})"


def _figures(record: Record | None) -> list[str]:
    """Score, live state, share of dense at 16 bits where the score was made, seconds to the first token and for each
    after."""
    if record is None:
        return [""] * 5
    score = record.quality.scores.get(record.quality.primary)
    memory, time, held = record.memory, record.time, record.quality.state
    share = held.share16 if held else memory.share16
    return [
        _found(record.search) if record.search else _score(record.quality.primary, score) if score else "",
        f"{(memory.live_payload + (memory.live_slack or 0)) / 2**20:.2f} MiB"
        if memory.live_payload is not None
        else "",
        f"{share:.1%}{_unmatched(record)}" if share is not None else "",
        f"{time.prefill.median:.2f} s" if time.prefill else "",
        f"{time.decode.median * 1e3:.1f} ms" if time.decode else "",
    ]


def _score(name: str, score: Score) -> str:
    """What it is of, its value and its 95% interval."""
    known = score.low is not None and score.high is not None
    return f"{name} {score.value:.3g}" + (f" ({score.low:.3g} to {score.high:.3g})" if known else "")


def _unmatched(record: Record) -> str:
    """A mark where a budget was asked for, and the method has no setting that changes its size."""
    budget = record.cell.budget
    return " (not matched)" if budget is not None and budget.knob is None else ""


def _status(record: Record | None) -> str:
    if record is None:
        return "no record: its job died"
    return record.status if record.status == "ok" else f"{record.status}: {_reason(record)}"


def _reason(record: Record | None) -> str:
    """The first line of what went wrong."""
    blocks = (record.quality, record.memory, record.time) if record else ()
    return next((b.reason.split("\n")[0] for b in blocks if b.status != "ok" and b.reason), "")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(v) for v in dict.fromkeys(values))
