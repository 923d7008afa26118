"""What one try does, in a process that was started for it and ends with it: load the model, read, decode, report.

This module is what the server of such processes loads before the first (runners/search/process.py), so that a try
begins with torch and transformers in place. It must touch no device on being imported: a process that has used CUDA
cannot be forked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kvfrontier.methods import Method, registry
from kvfrontier.runners import limit, meter, models
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.peak import storage_bytes
from kvfrontier.runners.record import Memory, Time
from kvfrontier.runners.session import Session


@dataclass(frozen=True)
class Request:
    """One try.

    model     keys of configs/model/*.yaml, with dtype and device
    weights   own, or random ones of the architecture
    method    its parameters, complete
    context, batch, new   tokens in all, sequences, and how many of the tokens are decoded
    limit     bytes that the process may take; None: what the device has
    rate      the device's bandwidth
    """

    model: Mapping[str, Any]
    method: Mapping[str, Any]
    context: int
    batch: int
    new: int
    chunk: int | None
    seed: int
    threads: int
    rate: meter.Bandwidth
    limit: int | None = None
    weights: str = "own"
    beyond_positions: bool = False
    repetitions: int = 1
    warmups: int = 0


@dataclass
class Report:
    """What a try gave. `memory` has sizes and no peaks: nothing watched the operators while time was taken."""

    time: Time
    memory: Memory = field(default_factory=lambda: Memory(status="skipped"))
    model: dict[str, Any] = field(default_factory=dict)
    resident_peak: int | None = None


def serve(request: Request | None, device: str, asked: int | None, threads: int, tell: Connection, errors: str) -> None:
    """A process from beginning to end: tells the limit that holds it, then what came of the request, if there is one.

    `asked` is the limit in bytes, or None; what is written to stderr goes to the file `errors`.
    """
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    first_to_go()
    torch.set_num_threads(threads)
    torch.ones(1 << 20).sum()  # the threads are there before the limit, and counted in the baseline
    with limit.limited(asked, device) as held:
        tell.send(held)
        report = None if request is None else measured(request)
    if report is not None:
        tell.send(report)


def first_to_go() -> None:
    """Where the whole machine runs out of memory, the kernel is to take this process and no other."""
    wish = Path("/proc/self/oom_score_adj")
    if wish.exists():
        wish.write_text("1000")


def measured(request: Request) -> Report:
    """Run a request in this process. Memory that runs out, and any other failure, is the status of the time block."""
    report = Report(Time(status="failed"))

    def act() -> Time:
        model = _load(request, report)
        tensors = list(chain(model.parameters(), model.buffers()))
        generator = torch.Generator().manual_seed(request.seed)
        vocabulary = model.config.get_text_config().vocab_size
        shape = (request.batch, request.context)
        ids = torch.randint(vocabulary, shape, generator=generator).to(model.device)
        method = registry.build(request.method)

        def weighed(session: Session) -> None:
            report.memory = _sizes(session, request, storage_bytes(tensors))

        with torch.no_grad():
            return meter.measure_time(
                lambda: _Weighed(model, method, request.beyond_positions, weighed),
                ids[:, : -request.new],
                ids[:, -request.new :],
                chunk=request.chunk,
                repetitions=request.repetitions,
                warmups=request.warmups,
                weights=model,
                rate=request.rate,
            )

    try:
        report.time = guarded(Time, act)
    except UsageError as error:
        report.time = Time(status="failed", reason=str(error))
    report.resident_peak = limit.resident_peak(request.model["device"])
    if report.time.status != "ok":
        report.memory = Memory(status=report.time.status, reason=report.time.reason)
    return report


def _load(request: Request, report: Report) -> Any:
    """The model, its own weights or random ones; notes in the report what the record says of it."""
    if request.weights == "own":
        loaded = models.load(request.model)
        report.model = loaded.facts
        return loaded.model
    torch.manual_seed(request.seed)
    with torch.device(request.model["device"]):
        model = models.skeleton(request.model)
    report.model = {
        "revision": "random weights",
        "license": "none: random weights",
        "max_context": getattr(model.config.get_text_config(), "max_position_embeddings", None),
        "weights_bytes": storage_bytes(chain(model.parameters(), model.buffers())),
    }
    return model


class _Weighed(Session):
    """A session that is weighed when it closes, and may go past the model's positions."""

    def __init__(self, model: Any, method: Method, beyond: bool, weighed: Callable[[Session], None]) -> None:
        super().__init__(model, method)
        self._beyond, self._weighed = beyond, weighed

    def __enter__(self) -> Session:
        session = super().__enter__()
        if self._beyond and not self.bridge.learned_positions:
            self.bridge.max_positions = None
        return session

    def __exit__(self, *exception: object) -> None:
        if exception[:1] == (None,):
            self._weighed(self)
        super().__exit__(*exception)


def _sizes(session: Session, request: Request, weights: int) -> Memory:
    live, predicted = session.state_bytes(), session.footprint()
    return Memory(
        status="ok",
        repetitions=1,
        prompt_tokens=request.context - request.new,
        decoded_tokens=request.new,
        chunk=request.chunk,
        analytic_payload=predicted.held.payload,
        analytic_slack=predicted.held.slack,
        live_payload=live.payload,
        live_slack=live.slack,
        live_host=live.host + live.host_slack,
        bytes_read=predicted.read,
        weights=weights,
    )
