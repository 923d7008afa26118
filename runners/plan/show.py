"""A plan for a person to read, or for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import agreement as agreements
from kvfrontier.runners.plan import ask, words
from kvfrontier.runners.plan import on_paper as papers
from kvfrontier.runners.plan.fit import fitting
from kvfrontier.runners.plan.rows import MOST_ROWS, MOST_TOKENS
from kvfrontier.runners.progress import working
from kvfrontier.runners.record import load_records
from kvfrontier.runners.tables import show_table

COLUMNS = (
    "method", "context", "batch", "weights", "state", "prefill peak", "decode peak", "fits", "max context", "max batch",
    "TTFT", "decode",
)  # fmt: skip
_GIB = 1 << 30


def plan(asked: Sequence[str], *, as_json: bool, with_why: bool = False) -> None:
    """Print the plan of these words, and, if asked, why it needs what it needs. Raises UsageError where they ask for
    nothing that can be planned."""
    cells = words.read(asked)
    rows = []
    with working("planning") as say:
        for cell in cells:
            say(f"{cell.choice} {cell.cell.method['name']} {cell.cell.context}")
            rows.append(ask.row(cell, with_why))
    if not any(row["fits"] is not None for row in rows):
        raise UsageError(rows[0]["note"])
    if as_json:
        print(json.dumps(rows))
    else:
        show_rows(rows)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each model, dtype and device, and below it the notes."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['model']}, {row['dtype']}, on {row['device']}", []).append(row)
    for title, members in groups.items():
        show_table(title, COLUMNS, map(_cells, members), numbers=COLUMNS[1:])
        for row in members:
            if "why" in row:
                print(f"{row['method']} at {row['context']}: {row['why']['text']}")
        for note in dict.fromkeys(f"{row['method']}: {row['note']}" for row in members if row["note"]):
            print(note)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    first = (row["method"], str(row["context"]), str(row["batch"]))
    if row["fits"] is None:
        return (*first, *("-" for _ in COLUMNS[len(first) :]))
    return (
        *first,
        size(row["weights_bytes"]),
        size(row["state_bytes"]),
        size(row["prefill_peak_bytes"]),
        size(row["decode_peak_bytes"]),
        "yes" if row["fits"] else "no",
        _count(row["max_context"], MOST_TOKENS),
        _count(row["max_batch"], MOST_ROWS),
        f"{_seconds(row['ttft_seconds'])} ({row['ttft_bound']})",
        f"{_seconds(row['token_seconds'])} ({row['token_bound']})",
    )


def fit(asked: Sequence[str], results: Path, *, as_json: bool) -> None:
    """Print what fits a device at a context. Raises UsageError where nothing does."""
    with working("looking for what fits"):
        rows = fitting(asked, results)
    if not rows:
        raise UsageError("no method fits; lower context or batch, or choose a larger device or a smaller model")
    if as_json:
        print(json.dumps(rows))
        return
    columns = ("method", "state", "peak, about", "measured")
    lines = [(row["method"], size(row["state_bytes"]), size(row["peak_bytes"]), row["measured"]) for row in rows]
    show_table(None, columns, lines, numbers=columns[1:3])


def on_paper(folder: Path, results: Path, *, as_json: bool) -> None:
    """Write the page of on_paper.py into `folder`, beside shares of the bandwidth from the records in `results`."""
    measured = papers.shares(load_records(results)) if results.exists() else {}
    with working("scale on paper") as say:
        found = papers.lines(say)
    _, page = papers.write(found, measured, folder)
    print(json.dumps([asdict(line) for line in found]) if as_json else page)


def agreement(folder: Path, device: str, *, as_json: bool) -> bool:
    """Run every cell of agreement.py on `device`, write its tables into `folder`, print what does not agree; whether
    all do. Raises UsageError for a device that is not there."""
    device = resolve_device(device)
    with working("predicting and measuring") as say:
        found = list(agreements.rows(agreements.cells(), device, say))
    _, page = agreements.write(found, device, folder)
    wrong = [row for row in found if not row.agrees]
    if as_json:
        print(json.dumps([asdict(row) for row in found]))
    else:
        for row in wrong:
            print(
                f"{row.model} {row.method} {row.dtype} {row.context}, chunk {row.chunk}, batch {row.batch}: {row.pairs}"
            )
        print(f"{len(found) - len(wrong)} of {len(found)} cells agree; all of them are in {page}")
    return not wrong


def size(n: float) -> str:
    """Bytes in GiB, or in MiB where that is too coarse."""
    return f"{n / _GIB:.2f} GiB" if n >= _GIB / 4 else f"{n / (1 << 20):.2f} MiB"


def _count(n: int, most: int) -> str:
    return "any" if n > most // 2 else f"{n:,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"
