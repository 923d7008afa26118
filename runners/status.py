"""`kvfrontier status`: how far the sweeps of a results folder are, from the files alone, so also from elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import content_hash
from kvfrontier.runners.sweep import claims, manifest
from kvfrontier.runners.sweep.pace import Pace, duration
from kvfrontier.runners.sweep.present import Brief, briefs
from kvfrontier.runners.tables import show_table


@dataclass(frozen=True)
class Worker:
    """A process that works on a job. `seconds`: since its cell began, by its own clock; `silent`: on another machine,
    and it has not been seen to beat yet, or no more."""

    host: str
    pid: int
    job: str
    cell: str
    seconds: float
    silent: bool


@dataclass(frozen=True)
class Status:
    """One results folder. `left`: seconds until the end, with the processes that are there now; None where that is not
    known or nothing runs. `last`: the newest record's cell."""

    folder: str
    wanted: int
    done: int
    failed: int
    running: int
    to_go: int
    left: float | None
    workers: tuple[Worker, ...]
    failures: tuple[dict[str, str], ...]


def look(folder: Path, watch: claims.Watch) -> Status:
    """What the files of a folder say now."""
    wanted, there = manifest.read(folder), briefs(folder)
    of_cell = {content_hash(b.cell): b for b in there.values()} if any(w.cell for w in wanted.values()) else {}
    found = {key: there.get(key) or of_cell.get(w.cell) for key, w in wanted.items()}
    mine = {key: b for key, b in found.items() if b}
    failed = [b for b in mine.values() if b.status == "failed"]
    workers = tuple(_workers(folder, watch))
    running = sum(bool(w.cell) for w in workers)
    missing = [w for key, w in wanted.items() if key not in mine]
    return Status(
        folder=str(folder),
        wanted=len(wanted),
        done=len(mine) - len(failed),
        failed=len(failed),
        running=running,
        to_go=max(0, len(missing) - running),
        left=_left(missing, there, workers),
        workers=workers,
        failures=tuple(
            {"cell": wanted[key].name, "reason": b.reason, "command": b.command}
            for key, b in mine.items()
            if b.status == "failed"
        ),
    )


def _workers(folder: Path, watch: claims.Watch) -> list[Worker]:
    found = []
    for held in claims.current(folder).values():
        if not held.done and not watch.dead(held):
            said = held.said
            found.append(
                Worker(
                    host=said.get("host", ""),
                    pid=said.get("pid", 0),
                    job=held.name,
                    cell=said.get("cell", ""),
                    seconds=said.get("seconds", 0.0),
                    silent=not watch.beating(held),
                )
            )
    return found


def _left(missing: Sequence[manifest.Wanted], there: dict[str, Brief], workers: Sequence[Worker]) -> float | None:
    if not workers or not missing:
        return 0.0 if not missing else None
    pace = Pace(there.values())
    expected = [pace.expect(w.kind, w.context, w.batch) for w in missing]
    if not any(expected):
        return None
    known = [e.seconds for e in expected if e]
    # A cell of which nothing is known takes what the others take.
    total = sum(known) * len(missing) / len(known)
    return max(0.0, total - sum(w.seconds for w in workers)) / len(workers)


def show(paths: Sequence[Path], *, watching: bool, every: float, as_json: bool) -> None:
    """Print the state of every folder among and below `paths`, once, or again and again until all is done.

    Raises UsageError where no sweep has been.
    """
    missing = [path for path in paths if not path.exists()]
    found = [] if missing else manifest.folders(paths)
    if not found:
        where = ", ".join(map(str, missing or paths))
        raise UsageError(f"no sweep has written to {where}; name the folder that was results=DIR of kvfrontier run")
    watch = claims.Watch()
    if as_json:
        print(json.dumps([asdict(look(folder, watch)) for folder in found]))
        return
    if not watching:
        _print([look(folder, watch) for folder in found])
        return
    with Live(console=Console(), auto_refresh=False, screen=False) as live:
        while True:
            found = manifest.folders(paths)
            states = [look(folder, watch) for folder in found]
            live.update(Group(*_tables(states)), refresh=True)
            if all(s.done + s.failed == s.wanted and not s.workers for s in states):
                return
            time.sleep(every)


_COLUMNS = ("results", "done", "running", "failed", "to go", "cells", "left")


def _row(s: Status) -> tuple[str, ...]:
    left = "" if s.left is None or not s.workers else duration(s.left)
    stopped = s.to_go + s.running and not s.workers
    counts = (s.done, s.running, s.failed, s.to_go, s.wanted)
    return (s.folder, *map(str, counts), "not running" if stopped else left)


def _print(states: Sequence[Status]) -> None:
    show_table(None, _COLUMNS, map(_row, states), numbers=_COLUMNS[1:])
    workers = [(w.host, str(w.pid), w.cell or "between two cells", _since(w)) for s in states for w in s.workers]
    if workers:
        show_table(None, ("host", "process", "cell", "for"), workers, numbers=("process", "for"))
    for s in states:
        for failure in s.failures:
            print(f"failed: {failure['cell']}: {failure['reason']}")
            if failure["command"]:
                print(f"  again: {failure['command']}")


def _since(w: Worker) -> str:
    return f"{duration(w.seconds)}{', silent' if w.silent else ''}"


def _tables(states: Sequence[Status]) -> list[Any]:
    table = Table()
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "results" else "right")
    for s in states:
        table.add_row(*map(Text, _row(s)))
    lines = [
        Text(f"{w.host} {w.pid}: {w.cell or 'between two cells'} ({_since(w)})") for s in states for w in s.workers
    ]
    failures = [Text(f"failed: {f['cell']}: {f['reason']}", style="red") for s in states for f in s.failures[-5:]]
    return [table, *lines, *failures]
