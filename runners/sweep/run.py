"""Running a sweep: plan, check, launch what is missing, and say what came of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners import progress
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell, Record, Search, check_writable, load_records
from kvfrontier.runners.refusal import foreseen
from kvfrontier.runners.sweep.cells import Plan, Planned, plan
from kvfrontier.runners.tables import show_table


class CellsFailed(Exception):
    """Every cell was tried, and some have no result; their records say why."""


def run(
    axes: Sequence[str],
    *,
    exclude: Iterable[Mapping[str, Any]],
    results: Path,
    search: Sequence[str],
    launch: Callable[[list[list[str]]], Sequence[Any]],
    in_process: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    """Run what is missing of a sweep.

    axes         Hydra's overrides; those with several values are the axes
    exclude      cells to leave out (runners/sweep/cells.py)
    results      folder of the records, searched for those that exist
    search       where else to look for YAMLs
    launch       starts jobs, each given by its overrides, and returns Hydra's JobReturns
    in_process   the jobs run in this process one after the other, and can move a progress bar

    Raises UsageError before any work is done, and CellsFailed at the end where a cell failed.
    """
    planned = plan(axes, exclude, results, search)
    if dry_run:
        _show_plan(planned.judged(foreseen), json_output)
        return
    check_writable(results)
    planned = planned.judged(cells.check)
    jobs = planned.jobs
    crashed: list[str] = []
    if jobs:
        with progress.cells(sum(c.cell.context for job in jobs for c in job.cells), shown=in_process):
            for returned in launch([job.overrides(planned.fixed) for job in jobs]):
                try:
                    returned.return_value  # noqa: B018  Hydra raises here what the job raised
                except UsageError:
                    raise
                except Exception as error:  # noqa: BLE001  whatever it was, the other jobs have run
                    crashed.append(f"{' '.join(returned.overrides or [])}: {type(error).__name__}: {error}")
    there = {r.id: r for r in load_records(results)}
    _show_results(planned, there, json_output)
    failed = [c for c in planned.cells if c.id not in there or there[c.id].status == "failed"]
    if failed or crashed:
        raise CellsFailed(
            "\n".join(
                [
                    f"{len(failed)} of {len(planned.cells)} cells failed; run the same command to try them again",
                    *crashed,
                ]
            )
        )


def _show_plan(planned: Plan, json_output: bool) -> None:
    """Which jobs would run, with which cells, and which records exist."""
    if json_output:
        rows = [
            {"id": c.id, "state": _state(c), "status": c.record.status if c.record else None, "reason": c.refusal}
            | c.cell.model_dump()
            for c in planned.cells
        ]
        print(json.dumps({"jobs": len(planned.jobs), "cells": rows}))
        return
    counts = Counter(map(_state, planned.cells))
    states = [state for state in ("to run", "impossible", "recorded") if counts[state] or state != "impossible"]
    rows = []
    for members in planned.grouped(planned.cells):
        first, own = members[0].cell, Counter(map(_state, members))
        contexts, tasks = (c.cell.context for c in members), (cells.task_label(c.cell) for c in members)
        named = first.model, cells.method_label(first), _listed(contexts), _listed(tasks)
        rows.append((*named, *(str(own[state]) for state in states)))
    show_table(_jobs(len(planned.jobs)), ("model", "method", "contexts", "tasks", *states), rows, numbers=states)
    print("cells " + ", ".join(f"{state}: {counts[state]}" for state in states))
    for why, refused in _by_reason(planned.cells).items():
        print(f"impossible: {_listed(cells.name(c.cell) for c in refused)}: {why}")


def _jobs(n: int) -> str:
    return {0: "nothing to run", 1: "1 job to run"}.get(n, f"{n} jobs to run")


def _state(c: Planned) -> str:
    """An impossible cell is recorded as infeasible when the sweep is run."""
    return "recorded" if not c.to_run else "impossible" if c.refusal else "to run"


def _by_reason(planned: Iterable[Planned]) -> dict[str, list[Planned]]:
    found: dict[str, list[Planned]] = {}
    for c in planned:
        if c.refusal:
            found.setdefault(c.refusal, []).append(c)
    return found


def _show_results(planned: Plan, there: Mapping[str, Record], json_output: bool) -> None:
    found = [(c, there.get(c.id)) for c in planned.cells]
    ran = sum(c.to_run for c in planned.cells)
    failed = sum(r is None or r.status == "failed" for _, r in found)
    if json_output:
        rows = [
            {"id": c.id, "ran": c.to_run, "status": r.status if r else "failed", "reason": _reason(r)}
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
        _found(record.search) if record.search else f"{score.value:.3g}" if score else "",
        f"{(memory.live_payload + (memory.live_slack or 0)) / 2**20:.2f} MiB"
        if memory.live_payload is not None
        else "",
        f"{share:.1%}" if share is not None else "",
        f"{time.prefill.median:.2f} s" if time.prefill else "",
        f"{time.decode.median * 1e3:.1f} ms" if time.decode else "",
    ]


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
