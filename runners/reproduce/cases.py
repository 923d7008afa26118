"""A comparison's cases as cells, and which records are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvfrontier.analysis.reproduce import evidence
from kvfrontier.analysis.reproduce.comparison import Comparison, Scale, ScaleOf
from kvfrontier.analysis.reproduce.evidence import Evidence
from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose
from kvfrontier.runners.record import Cell, Record, canonical_json

Key = tuple[str, str]


@dataclass(frozen=True)
class Asked:
    """One cell, with the configuration that it is of."""

    config: Mapping[str, Any]
    cell: Cell

    @property
    def identity(self) -> str:
        """As of `identity`."""
        return identity(self.cell)

    def is_recorded(self, records: Mapping[str, Record]) -> bool:
        """Whether the record of its `identity` is one that this machine and this code would make. Failed cells are
        tried again."""
        record = records.get(self.identity)
        return record is not None and record.id == cells.identify(self.cell) and record.quality.status != "failed"

    @property
    def job(self) -> str:
        """What it shares with cells that run one after the other: the loaded model, and the method as it was asked."""
        return canonical_json([self.cell.model, self.cell.dtype, self.cell.device, self.cell.asked])


@dataclass(frozen=True)
class Cases:
    """The cells of one comparison by (view, case)."""

    comparison: Comparison
    scale: Scale
    cells: Mapping[Key, Asked]

    def evidence(self, records: Mapping[str, Record]) -> dict[Key, Evidence]:
        """What records, by `identity` of their cell, say of each case."""
        found = {}
        for (view, case), asked in self.cells.items():
            record = records.get(asked.identity)
            if record is None:
                found[view, case] = evidence.missing(f"not run yet: {cells.name(asked.cell)}")
            else:
                found[view, case] = evidence.of_records([record], self.comparison.views[view].score)
        return found

    def needed_first(self) -> list[Asked]:
        """The cells that show whether the model can carry the claim at all."""
        keys = [(need.view, need.case) for need in self.comparison.needs]
        return [self.cells[key] for key in keys if key in self.cells]


class Composing:
    """Composes the cells of comparisons at a scale. `words`: overrides that take the place of the scale's and the
    comparisons' own."""

    def __init__(self, scale: ScaleOf, words: Sequence[str] = ()) -> None:
        compose.register()
        self._told = {o.get_key_element() for o in compose.parse(words)}
        self._composer = compose.Composer([*self._rest(scale.overrides), *words])

    def cases(self, comparison: Comparison, scale: Scale) -> Cases:
        """Raises UsageError for an override that does not exist."""
        found: dict[Key, Asked] = {}
        for view, case in comparison.measured():
            asked = comparison.views[view]
            if asked.measure is None and scale not in comparison.cannot:
                found[view, case] = self._asked([*asked.overrides(scale), *comparison.cases[case].cell])
        return Cases(comparison, scale, found)

    def _asked(self, overrides: Sequence[str]) -> Asked:
        # The last word on a key counts: a case's, of its view's.
        final = {o.get_key_element(): str(o.input_line) for o in compose.parse(self._rest(overrides))}
        config = self._composer(tuple(final.values())).config
        return Asked(config, cells.describe(config, refuse=False))

    def _rest(self, overrides: Iterable[str]) -> list[str]:
        """Overrides of what the user's words do not say."""
        return [str(o.input_line) for o in compose.parse(list(overrides)) if o.get_key_element() not in self._told]


def identity(cell: Cell) -> str:
    """What makes a record a case's: its cell, on whatever device and by whatever version of the code it was run."""
    return canonical_json(cell.model_dump(exclude={"device"}))


def by_identity(records: Iterable[Record]) -> dict[str, Record]:
    """Records by `identity`; the newest of each."""
    return {identity(record.cell): record for record in sorted(records, key=lambda r: r.created)}
