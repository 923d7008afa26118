"""Planning a sweep: from axes to cells, without those left out or recorded, grouped into jobs. Nothing is run here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from kvfrontier.runners import cell as cells
from kvfrontier.runners import environment
from kvfrontier.runners.compose import Composed, Composer
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell, Record, canonical_json
from kvfrontier.runners.sweep import order
from kvfrontier.runners.sweep.axes import combined, split, zipped
from kvfrontier.runners.sweep.pace import Expected, Kind, Pace
from kvfrontier.runners.sweep.present import Brief, briefs

R = TypeVar("R", Record, Brief)


@dataclass(frozen=True)
class Away:
    """The jobs run on other machines, whose device has this name in records; None: whichever it is."""

    device_name: str | None = None


class Known(Generic[R]):
    """Records that exist, and which of them is a cell's. `away`: as of `plan`."""

    def __init__(self, records: Iterable[R], away: Away | None = None):
        self.records = {r.id: r for r in records}
        self._away = away
        self._names: dict[str, list[str]] = {}
        for r in self.records.values():
            names = self._names.setdefault(r.environment.device_kind, [])
            if r.environment.device_name not in names:
                names.append(r.environment.device_name)

    def identify(self, cell: Cell) -> str:
        """The id of the cell's record. Of a device that is elsewhere, that of a record that is there, whichever device
        of its kind it was."""
        if self._away is None:
            return cells.identify(cell)
        named = self._away.device_name
        names = [named] if named else self._names.get(cell.device.partition(":")[0], [])
        ids = [cells.identify(cell, name) for name in names]
        return next((i for i in ids if i in self.records), cells.identify(cell, named or "elsewhere"))


@dataclass(frozen=True)
class Planned:
    """One cell of a sweep. `overrides` are those that differ between cells; `record` is what is there already, or
    None where it is still to run; `refusal` says why it cannot be served, where that has been asked."""

    overrides: tuple[str, ...]
    composed: Composed
    cell: Cell
    id: str
    record: Brief | None = None
    refusal: str | None = None

    @property
    def to_run(self) -> bool:
        """Failed cells are tried again; out of memory is a result."""
        return self.record is None or self.record.status == "failed"

    @property
    def model(self) -> str:
        """What cells share that one loaded model serves."""
        return canonical_json([self.cell.model, self.cell.dtype, self.cell.device])

    @property
    def group(self) -> str:
        """What the cells of one job share: the model, and the method as it was asked for."""
        return canonical_json([self.cell.model, self.cell.dtype, self.cell.device, self.cell.asked])

    @property
    def kind(self) -> Kind:
        """What decides how long it takes, besides its tokens."""
        return Kind.of(self.cell.model_dump(), cells.method_label(self.cell))

    @property
    def tokens(self) -> int:
        """What it costs, where no record says how long one took."""
        return max(1, self.cell.context) * self.cell.batch


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
    """All cells of a sweep, and the overrides that every one of them shares. `pace`: what earlier records say of how
    long cells take."""

    fixed: tuple[str, ...]
    cells: tuple[Planned, ...]
    pace: Pace = field(default_factory=lambda: Pace(()))

    def judged(self, judge: Callable[[Sequence[Cell], Mapping[str, Any]], Sequence[str | None]]) -> Plan:
        """The same, with the refusals that `judge` knows of each job's cells and its model.

        Raises UsageError where they are all that a sweep of one job has: then it is no result, but a mistake.
        """
        reasons: dict[str, str] = {}
        for job in self.jobs:
            found = judge([c.cell for c in job.cells], job.cells[0].composed.config["model"])
            reasons |= {c.id: why for c, why in zip(job.cells, found, strict=True) if why}
            if all(c.id in reasons for c in self.cells) and len(self.grouped(self.cells)) == 1:
                refused = job.cells[0]
                raise UsageError(f"{cells.name(refused.cell)}: {reasons[refused.id]}")
        return replace(self, cells=tuple(replace(c, refusal=reasons.get(c.id)) for c in self.cells))

    def found(self, known: Known[Record]) -> list[tuple[Planned, Record | None]]:
        """Every cell with its record, after they were run."""
        return [(c, known.records.get(known.identify(c.cell))) for c in self.cells]

    @property
    def jobs(self) -> list[Job]:
        """The cells that are still to run; the longest jobs first, and those of one model together. Inside a job the
        small contexts come first, and the tasks of one context one after the other, so that they share its
        measurements."""
        jobs = [Job(tuple(cells)) for cells in self.grouped(c for c in self.cells if c.to_run)]
        known = {c.id: self.expected(c) for job in jobs for c in job.cells}
        # Seconds and tokens do not compare: where a cell is unknown, tokens count for all.
        seconds = {key: e.seconds for key, e in known.items() if e} if all(known.values()) else {}

        def cost(job: Job) -> float:
            return sum(seconds.get(c.id, c.tokens) for c in job.cells)

        return order.longest_first(jobs, lambda job: job.cells[0].model, cost)

    def expected(self, c: Planned) -> Expected | None:
        """How long a cell takes, as far as earlier records tell."""
        return self.pace.expect(c.kind, c.cell.context, c.cell.batch)

    @staticmethod
    def grouped(cells: Iterable[Planned]) -> list[list[Planned]]:
        """Cells with the same model, dtype, device and method, as it was asked for, together."""
        groups: dict[str, list[Planned]] = {}
        for c in cells:
            groups.setdefault(c.group, []).append(c)
        return [sorted(g, key=lambda p: (p.cell.context, p.cell.batch, p.cell.seed)) for g in groups.values()]

    def sharded(self, mine: int, of: int) -> Plan:
        """Part `mine` of `of`: whole jobs; where there are too few, what shares a measurement, in files of the part's
        own. It does not depend on what is recorded: a sweep that goes on is split as it was."""
        whole = len({c.group for c in self.cells}) >= of

        def unit(c: Planned) -> str:
            return c.group if whole else canonical_json([c.group, c.cell.context, c.cell.batch, c.cell.seed])

        costs: dict[str, float] = {}
        for c in self.cells:
            costs[unit(c)] = costs.get(unit(c), 0.0) + c.tokens
        chosen = order.shard(costs, mine, of)
        fixed = self.fixed if whole else (*self.fixed, f"++sweep.shard='{mine}/{of}'")
        return replace(self, fixed=fixed, cells=tuple(c for c in self.cells if unit(c) in chosen))


def plan(
    axes: Sequence[str],
    exclude: Iterable[Mapping[str, Any]],
    results: Path,
    search: Sequence[str] = (),
    away: Away | None = None,
    zips: Iterable[Mapping[str, Sequence[Any]]] = (),
) -> Plan:
    """The cells of a sweep, from Hydra's overrides (those with several values are the axes).

    `exclude` leaves out cells: every entry maps a group or key to a value, a list of values, or `"!value"` for all
    but that, and drops the cells for which all of it holds. `zips`: axes that advance together (axes.py). `away`: other
    machines run it. Raises UsageError where no cell is left, or where a choice, key or value does not exist.
    """
    fixed, swept = split(axes)
    fixed = [o for o in fixed if not _of_sweep(o)]
    together = zipped(zips, (o.partition("=")[0].lstrip("+~") for o in (*fixed, *(axis[0] for axis in swept))))
    composer = Composer(fixed, search)
    composer.prepare(o for axis in (*swept, *map(chain.from_iterable, together)) for o in axis)
    kept = combined(swept, together, exclude, composer)
    if not kept:
        raise UsageError("the sweep is empty: every cell is excluded; see hydra.sweeper.exclude")
    known = Known(briefs(results).values(), away)
    planned: dict[str, Planned] = {}
    described = _Described(composer, here=away is None)
    for overrides in kept:
        c, cell = described(overrides)
        key = known.identify(cell)
        # Two ways to say one cell are one cell.
        planned.setdefault(key, Planned(overrides, c, cell, key, known.records.get(key)))
    device = next(iter(planned.values())).cell.device
    names = away.device_name if away else environment.device_name(device)
    return Plan(tuple(fixed), tuple(planned.values()), Pace(known.records.values(), names))


#: What a configuration says of a cell that nothing else of it depends on, and the least that it may be.
_FREE = {"context": 2, "batch": 1, "seed": 0}


class _Described:
    """Describes cells. Of thousands most differ in context, batch and seed alone, and are made of the first such one; a
    budget, a search and a workload make more depend on these."""

    def __init__(self, composer: Composer, here: bool) -> None:
        self._composer, self._here = composer, here
        self._first: dict[tuple[str, ...], tuple[Composed, Cell]] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[Composed, Cell]:
        """The configuration of a cell, and the cell. Raises UsageError."""
        told = dict(o.split("=", 1) for o in overrides)
        rest = tuple(o for o in overrides if o.partition("=")[0] not in _FREE)
        free = {key: int(told[key]) for key in _FREE if told.get(key, "").isdecimal()}
        plain = len(free) == len(overrides) - len(rest) and all(n >= _FREE[key] for key, n in free.items())
        if plain and rest in self._first:
            c, cell = self._first[rest]
            return replace(c, config={**c.config, **free}), cell.model_copy(update=free)
        c = self._composer(overrides)
        cell = cells.describe(c.config, refuse=False, here=self._here)
        if plain and not (cell.budget or cell.search or cell.workload):
            self._first[rest] = c, cell
        return c, cell


def _of_sweep(override: str) -> bool:
    """Whether it says how a sweep is run, which is nothing of a cell's."""
    return override.lstrip("+~").startswith("sweep.")


def _quoted_list(overrides: Sequence[str]) -> str:
    """As Hydra writes a list of texts: backslashes count only before a quote."""
    return "[" + ",".join(f"'{_BEFORE_QUOTE.sub(_escaped, o)}'" for o in overrides) + "]"


_BEFORE_QUOTE = re.compile(r"(\\*)('|$)")


def _escaped(found: re.Match[str]) -> str:
    return found[1] * 2 + ("\\'" if found[2] else "")
