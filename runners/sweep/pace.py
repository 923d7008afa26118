"""How long a cell takes, from records of earlier ones on the same device. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from kvfrontier.runners.sweep.present import Brief


@dataclass(frozen=True)
class Kind:
    """What decides how long a cell takes, its context and batch apart."""

    model: str
    dtype: str
    device: str
    method: str
    task: str

    @classmethod
    def of(cls, cell: Mapping[str, Any], label: str) -> Kind:
        """Of a cell as plain data, and its method's label."""
        asked = cell.get("search") or cell.get("workload") or cell["task"]
        task = f"{asked['name']} {asked.get('compress_at', '')} {cell['protocol'].get('repetitions', '')}"
        return cls(cell["model"], cell["dtype"], cell["device"], label, task)


@dataclass(frozen=True)
class Expected:
    """Seconds that a cell will take, and from what that is known."""

    seconds: float
    basis: str


class Pace:
    """Seconds of cells, from `records` of one device (None: of all there are).

    A cell that ran before, with another seed or an older version of the method, takes as long again. Else time is
    taken to grow with the tokens: from the nearest context of the same method and task, then from other methods with
    that task, then from the model's other cells.
    """

    def __init__(self, records: Iterable[Brief], device_name: str | None = None) -> None:
        self._exact: dict[tuple[Kind, int, int], list[float]] = {}
        self._lengths: dict[Kind, set[tuple[int, int]]] = {}
        self._of_task: dict[tuple[str, ...], list[float]] = {}
        self._of_model: dict[tuple[str, ...], list[float]] = {}
        for r in records:
            known = r.seconds and r.status == "ok"
            if not known or (device_name is not None and r.environment.device_name != device_name):
                continue
            kind, size = Kind.of(r.cell, r.label), (r.cell["context"], r.cell["batch"])
            self._exact.setdefault((kind, *size), []).append(r.seconds or 0)
            self._lengths.setdefault(kind, set()).add(size)
            per_token = (r.seconds or 0) / _tokens(*size)
            self._of_task.setdefault((kind.model, kind.dtype, kind.device, kind.task), []).append(per_token)
            self._of_model.setdefault((kind.model, kind.dtype, kind.device), []).append(per_token)

    def expect(self, kind: Kind, context: int, batch: int) -> Expected | None:
        """How long a cell takes, or None where nothing is known of its model on this device."""
        if same := self._exact.get((kind, context, batch)):
            return Expected(median(same), "the same cell")
        tokens = _tokens(context, batch)
        if sizes := self._lengths.get(kind):
            near = min(sizes, key=lambda size: (abs(_tokens(*size) - tokens), size))
            return Expected(median(self._exact[(kind, *near)]) * tokens / _tokens(*near), f"context {near[0]}")
        for rates, basis in (
            (self._of_task.get((kind.model, kind.dtype, kind.device, kind.task)), "other methods"),
            (self._of_model.get((kind.model, kind.dtype, kind.device)), "other tasks"),
        ):
            if rates:
                return Expected(median(rates) * tokens, basis)
        return None


def _tokens(context: int, batch: int) -> int:
    return max(1, context) * max(1, batch)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.4), duration(75), duration(5400), duration(200_000)
    ('0.4 s', '1 min 15 s', '1 h 30 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, less in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below} {less}"
    return f"{whole} s"
