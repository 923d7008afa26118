"""A whole search: what fits by prediction, what fits indeed, and what the record keeps of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from kvfrontier.runners import meter
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell, Limit, Memory, Probe, Search, Status, Time
from kvfrontier.runners.search import process, seek, settings
from kvfrontier.runners.search.predict import Prediction
from kvfrontier.runners.search.probe import Report, Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searched:
    """What a search gave; memory and time are of the largest size that fitted."""

    search: Search
    limit: Limit
    memory: Memory
    time: Time
    model: dict[str, Any]


def request(cell: Cell, model: Mapping[str, Any]) -> Request:
    """One try of a cell as it stands, with the repetitions of its protocol."""
    protocol = cell.protocol
    asked = settings.of(cell) if cell.search else None
    return Request(
        model={**model, "dtype": cell.dtype, "device": cell.device},
        weights=asked.weights if asked else "own",
        beyond_positions=bool(asked and asked.beyond_positions),
        method=cell.method,
        context=cell.context,
        batch=cell.batch,
        new=protocol["decode_tokens"],
        chunk=protocol["chunk"],
        seed=cell.seed,
        threads=torch.get_num_threads(),
        rate=meter.bandwidth(cell.device),
        limit=cell.memory_limit,
        repetitions=protocol["repetitions"],
        warmups=protocol["warmups"],
    )


def check(cell: Cell, model: Mapping[str, Any]) -> None:
    """Raise UsageError, with what to change, where a cell's search cannot be run. Loads nothing."""
    Prediction(cell, model).check()
    asked, new = settings.of(cell), cell.protocol["decode_tokens"]
    if not asked.of_context and new >= cell.context:
        raise UsageError(f"meter.decode_tokens={new} leaves nothing of context {cell.context} to prefill; lower it")


def search(cell: Cell, model: Mapping[str, Any], say: Callable[[str], None]) -> Searched:
    """Find the largest size that fits. Each try is a prefill and the protocol's decoded tokens in a process of its own;
    where the protocol asks for repetitions or warm-ups, the largest is measured once more with them."""
    asked, prediction = settings.of(cell), Prediction(cell, model)
    most, bound = prediction.check()
    limit = process.look(cell.device, cell.memory_limit, torch.get_num_threads())
    say("what fits on fake tensors")
    predicted, predicted_bound, note = None, None, ""
    try:
        predicted, predicted_bound = prediction.largest(limit.bytes - limit.baseline, most, bound)
        note = prediction.note
    except Exception as error:  # what is found does not depend on it, and the record says it
        log.error("what fits could not be predicted", exc_info=error)
        note = f"not predicted: {type(error).__name__}: {error}"
    least = asked.least(cell)
    tries = _Tries(cell, model, limit, say)
    try:
        hints = [] if predicted is None else [predicted, predicted + asked.step]
        found = seek.largest(tries.fits, start=asked.start, most=most, step=asked.step, least=least, hints=hints)
    except _Failed:
        found = None
    if found:
        tries.repeat(found)
    report = tries.reports.get(found or tries.last, Report(Time(status="failed")))
    return Searched(
        search=Search(
            kind=asked.name,
            found=found,
            bound=None if found is None else bound if found == most else "memory",
            predicted=predicted,
            predicted_bound=predicted_bound,
            note=note,
            step=asked.step,
            probes=tuple(_probe(n, tries.reports[n], prediction.known(n)) for n in tries.reports),
        ),
        limit=limit.model_copy(update={"resident_peak": report.resident_peak}),
        memory=report.memory,
        time=report.time,
        model=report.model,
    )


class _Failed(Exception):
    """A try ended otherwise than by memory: nothing is known of larger sizes."""


class _Tries:
    """The tries of a search, by size, in order."""

    def __init__(self, cell: Cell, model: Mapping[str, Any], limit: Limit, say: Callable[[str], None]) -> None:
        self._cell, self._say = cell, say
        # What the device had left is one number for all tries.
        self._request = request(cell.model_copy(update={"memory_limit": limit.bytes}), model)
        self._of_context = settings.of(cell).of_context
        self.reports: dict[int, Report] = {}
        self.last = 0

    def _run(self, size: int, **counts: int) -> Report:
        key = "context" if self._of_context else "batch"
        self._say(f"{key} {size}")
        _, report = process.run(replace(self._request, **{key: size}, **counts))
        return report

    def fits(self, size: int) -> bool:
        """Whether memory did not run out. Raises _Failed where anything else went wrong."""
        self.last = size
        report = self.reports[size] = self._run(size, repetitions=1, warmups=0)
        if report.time.status == "failed":
            raise _Failed
        return report.time.status == "ok"

    def repeat(self, size: int) -> None:
        """Measure a size that fitted as the protocol asks."""
        protocol = self._cell.protocol
        counts = {key: protocol[key] for key in ("repetitions", "warmups")}
        if counts != {"repetitions": 1, "warmups": 0}:
            again = self._run(size, **counts)
            # Within a hair of the limit, the same size need not fit twice; then the one measurement stands.
            if again.time.status == "ok":
                self.reports[size] = again


def _probe(size: int, report: Report, predicted_peak: int | None) -> Probe:
    memory, time = report.memory, report.time
    status: Status = time.status
    held = None if memory.live_payload is None else memory.live_payload + (memory.live_slack or 0)
    return Probe(
        size=size,
        status=status,
        reason=time.reason,
        state=held,
        bytes_read=memory.bytes_read,
        prefill=time.prefill.median if time.prefill else None,
        decode=time.decode.median if time.decode else None,
        resident_peak=report.resident_peak,
        predicted_peak=predicted_peak,
    )
