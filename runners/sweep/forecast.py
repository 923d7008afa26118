"""What a sweep's cells will take, before any is run: state in closed form, predicted peaks, time from earlier records,
and which will not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kvfrontier.methods import Method, registry
from kvfrontier.runners import limit, models
from kvfrontier.runners.cache import cache_dir, read_json, write_whole
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import known, shapes
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.plan.sizes import footprint, most_held
from kvfrontier.runners.progress import working
from kvfrontier.runners.record import Cell, canonical_json, content_hash
from kvfrontier.runners.refusal import deciding
from kvfrontier.runners.sweep.cells import Plan, Planned


@dataclass(frozen=True)
class Forecast:
    """One cell, in bytes and seconds; None: not known, or nothing that this cell has.

    state    what the method holds at the end, slack included, by its closed form
    least    weights and what is held at the fullest point: no peak is lower
    peak     predicted, weights included; `exact` unless it is a bound
    seconds  what the cell will take, and on what `basis`
    room     what the device has, or the cell's memory_limit
    """

    state: int | None = None
    least: int | None = None
    peak: int | None = None
    exact: bool = True
    seconds: float | None = None
    basis: str = ""
    room: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether there is room, as far as that is known."""
        if self.room is None or self.least is None:
            return None
        if max(self.least, self.peak if self.peak is not None and self.exact else 0) > self.room:
            return False
        return True if self.peak is not None else None

    @property
    def why_not(self) -> str:
        """In words, where it does not fit."""
        assert self.room is not None
        room = f"{self.room / 2**30:.2f} GiB"
        if self.least is not None and self.least > self.room:
            return f"weights and state take {self.least / 2**30:.2f} GiB, and there are {room}"
        return f"its predicted peak is {(self.peak or 0) / 2**30:.2f} GiB, and there are {room}"

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "fits": self.fits}


class Forecasts:
    """The forecasts of a plan's cells. `predict`: predict peaks that no cache has, which takes seconds each; `away`:
    the jobs run on other machines, whose memory is not known here."""

    def __init__(self, plan: Plan, *, predict: bool = False, away: bool = False) -> None:
        self._plan, self._predict, self._away = plan, predict, away
        self._peaks: dict[str, tuple[int, bool] | None] = {}
        self._methods: dict[str, Method] = {}
        self._rooms: dict[str, int | None] = {}
        self._closed = _ClosedForms()

    def all(self) -> dict[str, Forecast]:
        """The forecast of every cell, by its id."""
        found = {c.id: self._of(c) for c in self._plan.cells}
        self._closed.keep()
        return found

    def _of(self, c: Planned) -> Forecast:
        expected = self._plan.expected(c)
        found = Forecast(seconds=expected.seconds, basis=expected.basis) if expected else Forecast()
        # What a search seeks, and what requests of several lengths hold, has no closed form here.
        if c.refusal or c.cell.search or c.cell.workload:
            return found
        sizes = self._sizes(c)
        state, most = self._closed.of(sizes)
        least = sizes.weights + most
        peak, exact = (self._peak(c, sizes) if c.to_run else None) or (None, True)
        return replace(found, state=state, least=least, peak=peak, exact=exact, room=self._room(c.cell))

    def _sizes(self, c: Planned) -> _Sizes:
        model, cell = {**c.composed.config["model"], "dtype": c.cell.dtype}, c.cell
        key = canonical_json(cell.method)
        if key not in self._methods:
            self._methods[key] = registry.build(cell.method)
        return _Sizes(cell, model, self._methods[key])

    def _peak(self, c: Planned, sizes: _Sizes) -> tuple[int, bool] | None:
        key = canonical_json([sizes.run.model, sizes.run.method, c.cell.batch, c.cell.context, c.cell.protocol])
        if key not in self._peaks:
            self._peaks[key] = sizes.known or (sizes.predicted(c) if self._predict else None)
        return self._peaks[key]

    def _room(self, cell: Cell) -> int | None:
        if cell.memory_limit:
            return cell.memory_limit
        if self._away:
            return None
        if cell.device not in self._rooms:
            self._rooms[cell.device] = _memory(cell.device)
        return self._rooms[cell.device]


class _ClosedForms:
    """State in closed form, kept in the user's cache while the sources that decide it stay as they are: a sweep of
    hundreds of cells asks for tens of thousands of layers."""

    def __init__(self) -> None:
        self._memos: dict[Path, dict[str, Any]] = {}
        self._asked: set[Path] = set()

    def of(self, sizes: _Sizes) -> tuple[int, int]:
        """Bytes of a cell at the end, and at the fullest point."""
        if not shapes.may_be_kept(sizes.model):
            return sizes.held
        file = cache_dir() / "held" / f"{content_hash([sizes.model, *deciding()])[:32]}.json"
        if file not in self._memos:
            self._memos[file] = read_json(file)
        memo = self._memos[file]
        run, cell = sizes.run, sizes.cell
        where = [run.batch, run.prompt, run.new, cell.device == "cpu"]
        key = content_hash([registry.source_hash(cell.method), cell.method, where])[:32]
        if key not in memo:
            memo[key] = sizes.held
            self._asked.add(file)
        state, most = memo[key]
        return state, most

    def keep(self) -> None:
        """Remember what was asked for the first time."""
        for file in self._asked:
            with suppress(OSError):  # where the cache cannot be written, the next one asks again
                write_whole(file, json.dumps(self._memos[file]).encode())


def _memory(device: str) -> int | None:
    """Bytes that a device has for a cell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if device == "cpu" and sys.platform == "linux":
        return limit.available()
    import psutil

    return psutil.virtual_memory().available


@dataclass(frozen=True)
class _Sizes:
    """A cell's sizes in closed form, and its peak."""

    cell: Cell
    model: Mapping[str, Any]
    method: Method

    @cached_property
    def run(self) -> Run:
        protocol = self.cell.protocol
        new, chunk = protocol["decode_tokens"], protocol["chunk"]
        return Run(self.model, self.cell.method, self.cell.batch, self.cell.context - new, new, chunk)

    @cached_property
    def _layers(self) -> list[Any]:
        dtype = models.resolve_dtype(self.cell.dtype)
        return [layer.at(dtype) for layer in shapes.of(self.model).layers]

    @property
    def weights(self) -> int:
        return shapes.of(self.model).weights

    @property
    def held(self) -> tuple[int, int]:
        """Bytes of state at the end, and on the device at the fullest point."""
        run = self.run
        state = footprint(self.method, self._layers, run.batch, run.prompt, run.new).held.live
        # What a GPU keeps on the host is not taken of its memory.
        host = self.cell.device == "cpu"
        return state, most_held(self.method, self._layers, run.batch, run.prompt, run.new, host)

    @property
    def known(self) -> tuple[int, bool] | None:
        """The peak that the cache has, and whether it is exact."""
        configuration = shapes.of(self.model).configuration
        found = known.peak(self.run, configuration)
        if found is None or not found[1]:
            return found and (found[0], True)
        dense = known.peak(replace(self.run, method=registry.complete({"name": "dense"})), configuration)
        run = self.run
        return dense and (dense[0] + most_held(self.method, self._layers, run.batch, run.prompt, run.new), False)

    def predicted(self, c: Planned) -> tuple[int, bool] | None:
        """The peak, which is then in the cache."""
        from kvfrontier.runners.plan.peaks import peaks_or_bound

        try:
            with working(f"predicting {c.cell.method['name']} at {c.cell.context}"):
                found = peaks_or_bound(self.run, self.method, self._layers)
        except UsageError:
            raise
        except ValueError:  # the method cannot serve the model after all, which its record will say
            return None
        return max(found.prefill, found.decode), not found.why
