"""Planning a sweep: from axes to cells, without those left out or recorded, grouped into jobs. Nothing is run here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners.compose import Composed, Composer, parse
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell, Record, canonical_json, load_records


@dataclass(frozen=True)
class Planned:
    """One cell of a sweep. `overrides` are those that differ between cells; `record` is what is there already, or
    None where it is still to run; `refusal` says why its method cannot serve it, where that has been asked."""

    overrides: tuple[str, ...]
    composed: Composed
    cell: Cell
    id: str
    record: Record | None = None
    refusal: str | None = None

    @property
    def to_run(self) -> bool:
        """Failed cells are tried again; out of memory is a result."""
        return self.record is None or self.record.status == "failed"


@dataclass(frozen=True)
class Job:
    """Cells that share a loaded model and a method, and run in one process."""

    cells: tuple[Planned, ...]

    def overrides(self, fixed: Sequence[str]) -> list[str]:
        """Hydra's overrides of this job: what its cells share, and a list of what they do not."""
        shared = [o for o in self.cells[0].overrides if all(o in c.overrides for c in self.cells)]
        own = [[o for o in c.overrides if o not in shared] for c in self.cells]
        return [*fixed, *shared, f"cells=[{','.join(_quoted_list(o) for o in own)}]"]


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep, and the overrides that every one of them shares."""

    fixed: tuple[str, ...]
    cells: tuple[Planned, ...]

    def judged(self, judge: Callable[[Sequence[Cell], Mapping[str, Any]], Sequence[str | None]]) -> Plan:
        """The same, with the refusals that `judge` knows of each job's cells and its model.

        Raises UsageError where the sweep is of one job: then it is no result, but a mistake.
        """
        reasons: dict[str, str] = {}
        for job in self.jobs:
            found = judge([c.cell for c in job.cells], job.cells[0].composed.config["model"])
            reasons |= {c.id: why for c, why in zip(job.cells, found, strict=True) if why}
            if reasons and len(self.grouped(self.cells)) == 1:
                refused = next(c for c in job.cells if c.id in reasons)
                raise UsageError(f"{cells.name(refused.cell)}: {reasons[refused.id]}")
        return replace(self, cells=tuple(replace(c, refusal=reasons.get(c.id)) for c in self.cells))

    @property
    def jobs(self) -> list[Job]:
        """The cells that are still to run. Inside a job the small contexts come first, and the tasks of one context
        one after the other, so that they share its measurements."""
        return [Job(tuple(cells)) for cells in self.grouped(c for c in self.cells if c.to_run)]

    @staticmethod
    def grouped(cells: Iterable[Planned]) -> list[list[Planned]]:
        """Cells with the same model, dtype, device and method, as it was asked for, together."""
        groups: dict[str, list[Planned]] = {}
        for c in cells:
            groups.setdefault(canonical_json([c.cell.model, c.cell.dtype, c.cell.device, c.cell.asked]), []).append(c)
        return [sorted(g, key=lambda p: (p.cell.context, p.cell.batch, p.cell.seed)) for g in groups.values()]


def plan(axes: Sequence[str], exclude: Iterable[Mapping[str, Any]], results: Path, search: Sequence[str] = ()) -> Plan:
    """The cells of a sweep, from Hydra's overrides (those with several values are the axes).

    `exclude` leaves out cells: every entry maps a group or key to a value, a list of values, or `"!value"` for all
    but that, and drops the cells for which all of it holds. Raises UsageError where no cell is left, or where a
    choice, key or value does not exist.
    """
    fixed, swept = _split(axes)
    composer = Composer(fixed, search)
    composer.prepare(o for axis in swept for o in axis)
    rules = [_rule(entry) for entry in exclude]
    kept = [overrides for overrides in product(*swept) if not any(rule(overrides, composer) for rule in rules)]
    if not kept:
        raise UsageError("the sweep is empty: every cell is excluded; see hydra.sweeper.exclude")
    records = {r.id: r for r in load_records(results)} if results.exists() else {}
    planned: dict[str, Planned] = {}
    for overrides in kept:
        c = composer(overrides)
        cell = cells.describe(c.config, refuse=False)
        key = cells.identify(cell)
        # Two ways to say one cell are one cell.
        planned.setdefault(key, Planned(overrides, c, cell, key, records.get(key)))
    return Plan(tuple(fixed), tuple(planned.values()))


def _split(axes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Fixed overrides, and for every axis the overrides it ranges over. The last word on a key counts."""
    final = {o.get_key_element(): o for o in parse(axes)}
    fixed, swept = [], []
    for key, override in final.items():
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_discrete_sweep():
            swept.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UsageError(
                f"{override.input_line!r} is not a list of values; a sweep takes values with commas between them"
            )
    return fixed, swept


def _rule(entry: Mapping[str, Any]) -> Callable[[Sequence[str], Composer], bool]:
    """Whether a cell, given by its overrides, matches everything that an entry of `exclude` says."""
    wanted = {
        key: {str(v) for v in (values if isinstance(values, (list, tuple)) else [values])}
        for key, values in entry.items()
    }

    def holds(overrides: Sequence[str], composer: Composer) -> bool:
        given = dict(o.split("=", 1) for o in overrides)
        # Mostly an entry speaks of axes alone, and nothing need be composed to know them.
        return all(_matches(given.get(k) or composer(overrides).value(k), v) for k, v in wanted.items())

    return holds


def _matches(value: str, wanted: set[str]) -> bool:
    unwanted = {w[1:] for w in wanted if w.startswith("!")}
    return value in wanted or (bool(unwanted) and value not in unwanted)


def _quoted_list(overrides: Sequence[str]) -> str:
    """As Hydra writes a list of texts: backslashes count only before a quote."""
    return "[" + ",".join(f"'{_BEFORE_QUOTE.sub(_escaped, o)}'" for o in overrides) + "]"


_BEFORE_QUOTE = re.compile(r"(\\*)('|$)")


def _escaped(found: re.Match[str]) -> str:
    return found[1] * 2 + ("\\'" if found[2] else "")
