"""Two runs beside each other: what got better or worse beyond noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kvfrontier.analysis.changes import KINDS, Change, Changes, Kind, compare
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import load_records
from kvfrontier.runners.tables import show_table


def show(
    before: Path, after: Path, *, only: Sequence[str], peak: float, seconds: float, whole: bool, as_json: bool
) -> bool:
    """Print what changed, and return whether nothing of the kinds in `only` got worse. `whole`: what did not change
    too. Raises UsageError for a kind that there is not, and where no cell is on both sides."""
    kinds: list[Kind] = [_kind(name) for name in only]
    found = compare(load_records(before), load_records(after), peak=peak, seconds=seconds)
    if not found.changes:
        raise UsageError(
            f"no cell is in both {before} and {after}: they differ in model, dtype, method, task, protocol, context, "
            "batch or seed (kvfrontier protocol diff says in which)"
        )
    shown = [c for c in found.changes if c.kind in kinds and (whole or c.direction in ("better", "worse"))]
    if as_json:
        print(json.dumps({"changes": [asdict(c) for c in shown], **_counts(found, kinds)}))
    else:
        if shown:
            columns = ("method", "task", "context", "what", "before", "after", "change", "95%", "")
            show_table(None, columns, map(_row, shown), numbers=columns[2:3] + columns[4:7])
        counts = _counts(found, kinds)
        print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()))
        reasons = dict.fromkeys(c.why for c in found.changes if c.kind in kinds and c.direction == "not compared")
        if reasons:
            print(f"not compared: {'; '.join(filter(None, reasons))}")
    return not found.worse(kinds)


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise unknown("kind of change", name, KINDS)


def _counts(found: Changes, kinds: Sequence[Kind]) -> dict[str, int]:
    of = [c.direction for c in found.changes if c.kind in kinds]
    return {
        "better": of.count("better"),
        "worse": of.count("worse"),
        "same": of.count("same"),
        "not_compared": of.count("not compared"),
        "only_before": len(found.only_before),
        "only_after": len(found.only_after),
    }


def _row(c: Change) -> tuple[str, ...]:
    change = "" if c.change is None else f"{c.change:+.4g}" if c.kind == "score" else f"{c.change:+.1%}"
    interval = "" if c.low is None else f"{c.low:+.3g} to {c.high:+.3g}"
    told = c.direction + (f": {c.why}" if c.why else "")
    return (c.method, c.task, str(c.context), c.name, _text(c.before), _text(c.after), change, interval, told)


def _text(value: float | str | None) -> str:
    return (
        ""
        if value is None
        else value
        if isinstance(value, str)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
    )
