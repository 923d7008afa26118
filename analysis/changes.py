"""Two sets of records, of two versions, runs or machines: what got better or worse beyond noise.

Cells are matched by what determines them, device and code apart. Then

    scores   where both were asked the same samples in the same way: paired bootstrap, 95%; else not compared
    bytes    state, bytes read and peak: exact but for the peak's allowance
    seconds  on one machine alone: worse where the quartiles do not overlap and the medians differ by more than the
             allowance
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kvfrontier.analysis.rows import Setting, canonical
from kvfrontier.analysis.stats import Comparison, units
from kvfrontier.runners.record import Quality, Quartiles, Record, Status

Kind = Literal["status", "score", "bytes", "seconds"]
KINDS: tuple[Kind, ...] = ("status", "score", "bytes", "seconds")
Direction = Literal["better", "worse", "same", "not compared"]
#: Relative change of a peak, and of a median time, that is no news.
PEAK, SECONDS = 0.01, 0.05
_RANK: tuple[Status, ...] = ("failed", "oom", "infeasible", "skipped", "ok")


@dataclass(frozen=True)
class Change:
    """One number of one cell, before and after.

    change      what the direction rests on: for a score the mean paired difference, more is better; else relative
    low, high   its interval of 95%, where it has one
    why         of a number that is not compared
    """

    method: str
    model: str
    task: str
    context: int
    kind: Kind
    name: str
    before: float | str | None
    after: float | str | None
    direction: Direction
    change: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Changes:
    """All of it, and the cells that only one side has."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def worse(self, kinds: Iterable[Kind] = KINDS) -> list[Change]:
        """What got worse beyond noise."""
        wanted = set(kinds)
        return [c for c in self.changes if c.direction == "worse" and c.kind in wanted]


def compare(
    before: Iterable[Record], after: Iterable[Record], *, peak: float = PEAK, seconds: float = SECONDS
) -> Changes:
    """What changed from one set of records to the other. `peak`, `seconds`: relative changes that are no news."""
    a, b = _by_cell(before), _by_cell(after)
    changes = [c for key in a if key in b for c in _of_cell(a[key], b[key], peak, seconds)]
    return Changes(
        tuple(changes),
        tuple(_name(r) for key, r in a.items() if key not in b),
        tuple(_name(r) for key, r in b.items() if key not in a),
    )


def _by_cell(records: Iterable[Record]) -> dict[str, Record]:
    """The newest record of each cell."""
    return {canonical(r.cell.model_dump(exclude={"device"})): r for r in sorted(records, key=lambda r: r.created)}


def _of_cell(a: Record, b: Record, peak: float, seconds: float) -> Iterator[Change]:
    about = (b.info.label, b.cell.model, str(b.cell.task.get("name", "")), b.cell.context)
    if a.status != b.status:
        worse = _RANK.index(b.status) < _RANK.index(a.status)
        yield Change(*about, "status", "status", a.status, b.status, "worse" if worse else "better", why=_reason(b))
    if a.quality.status == b.quality.status == "ok":
        for name in a.quality.scores.keys() & b.quality.scores.keys():
            yield _score(about, name, a.quality, b.quality)
    if a.memory.status == b.memory.status == "ok":
        same = (a.memory.prompt_tokens, a.memory.decoded_tokens) == (b.memory.prompt_tokens, b.memory.decoded_tokens)
        for name, allowed in (("live_payload", 0.0), ("live_slack", 0.0), ("bytes_read", 0.0), ("peak", peak)):
            why = "" if same else "measured over other numbers of tokens"
            if name == "peak" and a.environment.device_kind != b.environment.device_kind:
                why = "peaks of two kinds of devices"
            yield _smaller_is_better(
                about, "bytes", name, getattr(a.memory, name), getattr(b.memory, name), allowed, why
            )
    if a.time.status == b.time.status == "ok":
        why = "" if _machine(a) == _machine(b) else "another machine, or measured otherwise"
        for name in ("prefill", "decode"):
            yield _seconds(about, name, getattr(a.time, name), getattr(b.time, name), seconds, why)


def _score(about: tuple[str, str, str, int], name: str, a: Quality, b: Quality) -> Change:
    old, new = a.scores[name], b.scores[name]
    found = (*about, "score", name, old.value, new.value)
    if a.task_hash != b.task_hash:
        return Change(*found, "not compared", why="scored in two ways (kvfrontier protocol diff)")
    if a.sample_set != b.sample_set:
        return Change(*found, "not compared", why="asked two sets of samples")
    results = {"a": {a.sample_set: units(a, name) or []}, "b": {b.sample_set: units(b, name) or []}}
    difference = Comparison(results, higher=new.higher_is_better).difference("b", "a")
    if difference is None:
        same: Direction = "same" if old.value == new.value else "not compared"
        return Change(*found, same, why="" if same == "same" else "too few single results to tell")
    direction: Direction = "better" if difference.low > 0 else "worse" if difference.high < 0 else "same"
    return Change(*found, direction, difference.mean, difference.low, difference.high)


def _smaller_is_better(
    about: tuple[str, str, str, int], kind: Kind, name: str, a: float | None, b: float | None, allowed: float, why: str
) -> Change:
    if a is None or b is None or why:
        return Change(*about, kind, name, a, b, "not compared", why=why or "one side does not say it")
    change = (b - a) / a if a else float(b != a)
    direction: Direction = "same" if abs(change) <= allowed else "worse" if change > 0 else "better"
    return Change(*about, kind, name, a, b, direction, change)


def _seconds(
    about: tuple[str, str, str, int], name: str, a: Quartiles | None, b: Quartiles | None, allowed: float, why: str
) -> Change:
    found = _smaller_is_better(about, "seconds", name, a and a.median, b and b.median, allowed, why)
    apart = a is not None and b is not None and (b.q1 > a.q3 or b.q3 < a.q1)
    if found.direction in ("better", "worse") and not apart:
        return Change(*about, "seconds", name, found.before, found.after, "same", found.change)
    return found


def _machine(record: Record) -> tuple[object, ...]:
    """What seconds must share to be compared: libraries may differ, since they may be what is asked about."""
    s = Setting.of(record)
    return s.device, s.device_kind, s.threads, s.dtype, s.batch, s.protocol, record.cell.context


def _name(record: Record) -> str:
    cell = record.cell
    return f"{record.info.label} on {cell.model}, {cell.task.get('name', '')} at {cell.context}"


def _reason(record: Record) -> str:
    blocks: Mapping[str, str] = {
        block.status: block.reason for block in (record.quality, record.memory, record.time) if block.reason
    }
    return next(iter(blocks.get(record.status, "").splitlines()), "")
