"""What fits, before anything is run: the peaks of the method's own code on fake tensors (runners/plan/peaks.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kvfrontier.methods import Layer, Method, registry
from kvfrontier.runners import models
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan.peaks import Run, peaks_or_bound
from kvfrontier.runners.plan.sizes import most_held
from kvfrontier.runners.record import Bound, Cell
from kvfrontier.runners.search import settings
from kvfrontier.runners.search.seek import largest
from kvfrontier.runners.session import Session


@dataclass
class Prediction:
    """The tries of one cell's search, on fake tensors. `model`: keys of configs/model/*.yaml; `note`: what a reader
    must know of the peaks."""

    cell: Cell
    model: Mapping[str, Any]
    note: str = ""
    _peaks: dict[int, int] = field(default_factory=dict)

    @cached_property
    def asked(self) -> settings.Settings:
        """What is sought."""
        return settings.of(self.cell)

    def check(self) -> tuple[int, Bound]:
        """The largest size that may be tried, and what it is that stops there.

        Raises UsageError where the method cannot serve the model, or where not even the first size is possible.
        """
        asked, cell = self.asked, self.cell
        try:
            method = registry.build(cell.method)
            with FakeTensorMode(), torch.no_grad(), Session(self._skeleton(), method) as session:
                if asked.beyond_positions and not session.bridge.learned_positions:
                    session.bridge.max_positions = None
                reach = session.reach
        except (ValueError, ImportError) as error:
            raise UsageError(str(error)) from error
        first = asked.start if asked.of_context else cell.context
        if first > reach:
            raise UsageError(
                f"{first} tokens are more than the {reach:.0f} positions that the model and the method have; start "
                "lower, or set search.beyond_positions=true"
            )
        if asked.of_context and reach <= asked.most:
            return int(reach), "positions"
        return asked.most, "most"

    def _skeleton(self) -> Any:
        return models.skeleton({**self.model, "dtype": self.cell.dtype, "device": "cpu"})

    def largest(self, room: int, most: int, bound: Bound) -> tuple[int, Bound]:
        """The largest size whose tensors take no more than `room` bytes, and what stops there."""
        asked = self.asked

        def fits(size: int) -> bool:
            return self.peak(size, most) <= room

        found = largest(fits, start=asked.start, most=most, step=asked.step, least=asked.least(self.cell))
        return found, bound if found == most else "memory"

    def known(self, size: int) -> int | None:
        """The peak at a size for which it has been asked."""
        return self._peaks.get(size)

    def peak(self, size: int, most: int) -> int:
        """The most that tensors hold at once, weights included, in bytes.

        Where a longer text holds no more by the closed forms, up to `most`, the peak there is the peak here.
        """
        if size not in self._peaks:
            flat = [n for n in self._peaks if n < size and self._settled(n) and self._held(n) == self._held(most)]
            self._peaks[size] = self._peaks[flat[0]] if flat else self._simulated(size)
        return self._peaks[size]

    def _settled(self, context: int) -> bool:
        """Whether every shape of a call has come up by this context: several chunks, of which the last was whole."""
        chunk = self.cell.protocol["chunk"]
        return self.asked.of_context and chunk is not None and context >= 4 * chunk

    def _held(self, context: int) -> int:
        new = self.cell.protocol["decode_tokens"]
        return most_held(self._method, self._layers, self.cell.batch, context - new, new)

    def _simulated(self, size: int) -> int:
        cell, of_context = self.cell, self.asked.of_context
        context, batch = (size, cell.batch) if of_context else (cell.context, size)
        new = cell.protocol["decode_tokens"]
        run = Run(
            model={**self.model, "dtype": cell.dtype},
            method=cell.method,
            batch=batch,
            prompt=context - new,
            new=new,
            chunk=cell.protocol["chunk"],
        )
        found = peaks_or_bound(run, self._method, self._layers)
        if found.why:
            self.note = f"peaks are bounds: {found.why}"
        return max(found.prefill, found.decode)

    @cached_property
    def _method(self) -> Method:
        return registry.build(self.cell.method)

    @cached_property
    def _layers(self) -> list[Layer]:
        dtype = models.resolve_dtype(self.cell.dtype)
        return [layer.at(dtype) for layer in models.layers(dict(self.model))]
