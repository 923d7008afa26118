"""The wall: the longest context that each method holds within a limit on memory, predicted and found.

A search for the context is no row of a board: it has no context of its own. Searches of one model on one machine under
one limit stand in a table and a figure of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kvfrontier.analysis.boards import labels
from kvfrontier.analysis.rows import FAMILIES, STATUS_WORDS, Setting, canonical
from kvfrontier.analysis.style import seconds, size
from kvfrontier.runners.record import Probe, Record

COLUMNS = ("method", "longest context", "stopped by", "predicted", "state there", "bytes read", "decode there")
_BOUNDS = {"memory": "memory", "positions": "the model's positions", "most": "the search's own end"}
_ENFORCED = {
    "cgroup": "a control group: every page that the process is the first to touch",
    "rlimit": "RLIMIT_DATA: private writable memory of the process, the interpreter's included",
    "cuda": "what torch's allocator may reserve",
}

_EXPLAINED = (
    "Found: the longest context at which a process of its own lived. Predicted: where the tensors of a run on fake "
    "tensors, with what was taken before, reach the limit; kernels' own temporaries and what an allocator cannot give "
    "back are not in it."
)


@dataclass(frozen=True)
class Searched:
    """One method's search. `probes`: the tries that fitted, by context."""

    method: str
    record: Record

    @property
    def probes(self) -> list[Probe]:
        found = self.record.search.probes if self.record.search else ()
        return sorted((p for p in found if p.status == "ok" and p.state is not None), key=lambda p: p.size)

    @property
    def hit(self) -> bool:
        """Whether memory stopped it."""
        return self.record.search is not None and self.record.search.bound == "memory"


@dataclass(frozen=True)
class Wall:
    """Searches that may be compared."""

    setting: Setting
    methods: tuple[Searched, ...]

    @property
    def words(self) -> str:
        """The limit, what it counts, and what the model was."""
        record = self.methods[0].record
        limit, asked = record.limit, record.cell.search or {}
        said = f"Limit {size(limit.bytes)}, by {_ENFORCED[limit.enforced]}" if limit else "No limit"
        if limit and limit.baseline:
            said += f"; {size(limit.baseline)} of it were taken before the model was loaded"
        said += ". Random weights of the model's shape" if asked.get("weights") == "random" else ""
        return said + (". Past the positions that it was made for." if asked.get("beyond_positions") else ".")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line of text for each method, under COLUMNS."""
        return [_row(one) for one in self.methods]


def is_wall(record: Record) -> bool:
    """Whether a record is a search for the context."""
    return record.cell.search is not None and record.cell.search.get("name") == "max_context"


def walls(records: Iterable[Record]) -> list[Wall]:
    """The searches for the context among records, the newest of each method; the wall with most methods first."""
    found: dict[tuple[Setting, str], list[Record]] = defaultdict(list)
    for record in sorted((r for r in records if is_wall(r)), key=lambda r: (r.created, r.id)):
        search = {k: v for k, v in (record.cell.search or {}).items() if k not in ("start", "most")}
        found[Setting.of(record), canonical([record.cell.memory_limit, search])].append(record)
    made = [Wall(setting, _methods(group)) for (setting, _), group in found.items()]
    return sorted(made, key=lambda wall: (-len(wall.methods), wall.setting))


def _methods(records: list[Record]) -> tuple[Searched, ...]:
    names = labels(records)
    newest = {canonical(r.cell.asked): r for r in records}
    found = [Searched(names[key], record) for key, record in newest.items()]

    def place(one: Searched) -> tuple[int, str, str]:
        family = one.record.info.family
        return (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family, one.method)

    return tuple(sorted(found, key=place))


def _row(one: Searched) -> tuple[str, ...]:
    record, search = one.record, one.record.search
    if search is None or search.found is None:
        return (one.method, STATUS_WORDS.get(record.status, record.status), record.time.reason, *[""] * 4)
    there = next((p for p in one.probes if p.size == search.found), None)
    return (
        one.method,
        f"{search.found:,}" if search.found else "none",
        _BOUNDS[search.bound] if search.bound else "",
        f"{search.predicted:,}" if search.predicted is not None else "",
        size(there.state) if there else "",
        size(there.bytes_read) if there else "",
        seconds(there.decode) if there else "",
    )


def markdown(wall: Wall, picture: str) -> list[str]:
    """A section of the leaderboard. `picture`: the figure's file name."""
    lines = [" | ".join(COLUMNS), " | ".join(["---", *["---:"] * (len(COLUMNS) - 1)])]
    lines += [" | ".join(row) for row in wall.rows]
    return [
        f"## The wall: {wall.setting.model} on {wall.setting.machine}",
        "",
        wall.words,
        "",
        f"![Bytes of state and decode time, up to the wall]({picture})",
        "",
        *(f"| {line} |" for line in lines),
        "",
        _EXPLAINED,
        "",
    ]
