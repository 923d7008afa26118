"""The peak of a prefill and of decoding, before there is a model: the code that a run runs, on fake tensors.

A fake tensor has a shape and a storage's size and no memory, so that the tracker of peak.py counts the bytes that a run
on the CPU would hold, temporaries inside kernels apart. Nothing here knows the methods. Where a method takes a dense
prefix, the text begins one chunk before its state grows for the last time: what comes before can only peak lower.
Chunks and layers that are as others are not run again (shorter.py).

What the bridge keeps of its look at a model's rotation is not counted: some hundred bytes, and the angles of a short
call's positions where a method turns keys itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from kvfrontier.methods import Layer, Method, registry
from kvfrontier.methods.contract import Phase
from kvfrontier.methods.state import leaves
from kvfrontier.runners import models
from kvfrontier.runners.cache import locked, read_json
from kvfrontier.runners.meter import head_of
from kvfrontier.runners.peak import track
from kvfrontier.runners.plan import known
from kvfrontier.runners.plan.roofline import anatomy, weight_bytes
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.plan.shorter import FEW, fewer_chunks, largest
from kvfrontier.runners.plan.sizes import footprint, most_held
from kvfrontier.runners.record import Parts
from kvfrontier.runners.session import Session

#: What a method does that depends on its data has no shape here.
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)


@dataclass(frozen=True)
class Peaks:
    """What the two peaks are made of, in bytes, as the record of a run on the CPU has it; `foreign` of them a hybrid
    model keeps in recurrent layers. Where the method cannot run on fake tensors, `why` says so, and the peaks are 0."""

    prefill_parts: Parts = field(default_factory=Parts)
    decode_parts: Parts = field(default_factory=Parts)
    foreign: int = 0
    why: str = ""

    @property
    def prefill(self) -> int:
        """Weights and state included, and what a GPU would keep on the host."""
        return self.prefill_parts.device + self.prefill_parts.host

    @property
    def decode(self) -> int:
        return self.decode_parts.device + self.decode_parts.host

    def bound(self, on_top: int, why: str) -> Peaks:
        """As if a state of `on_top` more bytes were held."""
        both = (self.prefill_parts, self.decode_parts)
        prefill, decode = (parts.model_copy(update={"state": parts.state + on_top}) for parts in both)
        return Peaks(prefill, decode, self.foreign, why)


_PEAKS = TypeAdapter(Peaks)


def peaks_or_bound(run: Run, method: Method, layers: Sequence[Layer]) -> Peaks:
    """The peaks of a run. Where the method, `method` on these layers, does not run on fake tensors, a bound with the
    reason: the peak of dense attention, with all that this method holds on top."""
    found = peaks(run)
    if not found.why:
        return found
    dense = peaks(replace(run, method=registry.complete({"name": "dense"})))
    return dense.bound(most_held(method, layers, run.batch, run.prompt, run.new), found.why)


def peaks(run: Run) -> Peaks:
    """The peaks of a run, from the cache where it is known. Raises ValueError where the method cannot serve the
    model."""
    file = known.file(run, models.configuration(run.model).to_dict())
    found = read_json(file)
    if not found:
        found = _PEAKS.dump_python(_simulate(run))
        with locked(file):
            part = file.with_name(f".{file.name}.{os.getpid()}.part")
            part.write_text(json.dumps(found))
            part.replace(file)
    return _PEAKS.validate_python(found)


class _AllLogits(Session):
    """A session that asks for the logits of every position, as a model's plain forward does."""

    def _advance(self, ids: Tensor, phase: Phase, keep: int | None) -> Tensor:
        return super()._advance(ids, phase, None)


def _simulate(run: Run, shortened: bool = True) -> Peaks:
    method = registry.build(run.method)
    try:
        with _without_tracebacks():
            if not shortened:
                return _watch(run, method, shortened)
            layers = _layers(run)
            run = fewer_chunks(run, method, layers)
            return _of_few_layers(run, method, layers) or _watch(run, method, shortened)
    except DATA_DEPENDENT as error:
        return Peaks(why=f"its shapes depend on data ({error.func})")
    except NotImplementedError as error:
        return Peaks(why=f"an operator has no fake form ({str(error).strip().splitlines()[0]})")


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """torch logs an operator that fails on fake tensors, also where the failure is the answer to a question."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _layers(run: Run, first: int | None = None) -> list[Layer]:
    dtype = models.resolve_dtype(run.dtype)
    return [layer.at(dtype) for layer in models.layers(run.model, first)]


def _of_few_layers(run: Run, method: Method, layers: Sequence[Layer]) -> Peaks | None:
    """The peaks of the whole model from those of its first layers, where these are as all others; else None."""
    pair = _alike(run, layers)
    if pair is None:
        return None
    most = largest(run, method, layers, [layer for first in pair for layer in _layers(run, first)])
    if most is None:
        return None
    less, more = (_watch(run, method, True, first) for first in pair)
    found = []
    for few, some, held in (
        (less.prefill_parts, more.prefill_parts, most[0]),
        (less.decode_parts, more.decode_parts, most[1]),
    ):
        a, b = few.model_dump(), some.model_dump()
        of_each = {key: (b[key] - a[key]) // (pair[1] - pair[0]) for key in a}
        if sum(of_each.values()) != of_each["weights"] + held:
            return None
        found.append(Parts(**{key: b[key] + (len(layers) - pair[1]) * of_each[key] for key in a}))
    if less.foreign or found[0].weights != anatomy(run.model).weights:
        return None
    return Peaks(*found)


def _alike(run: Run, layers: Sequence[Layer]) -> tuple[int, int] | None:
    """How many first layers make two models of which the whole one's weights can be told; None where no such pair is
    known: layers of several kinds, or of which few attend."""
    for less, more in FEW:
        if len(layers) <= more:
            return None
        a, b = (_weights(run, first) for first in (less, more))
        if b + (len(layers) - more) * (b - a) == anatomy(run.model).weights:
            return less, more
    return None


def _weights(run: Run, first: int) -> int:
    with FakeTensorMode():
        return weight_bytes(models.skeleton({**run.model, "device": "cpu"}, first))


@torch.no_grad()
def _watch(run: Run, method: Method, shortened: bool, first: int | None = None) -> Peaks:
    """The peaks of a run, or of the model's `first` layers alone."""
    with FakeTensorMode():
        return _watched(run, method, shortened, first)


def _watched(run: Run, method: Method, shortened: bool, first: int | None) -> Peaks:
    model = models.skeleton({**run.model, "device": "cpu"}, first)
    weights = list(chain(model.parameters(), model.buffers()))
    ids = torch.zeros(run.batch, run.prompt + run.new, dtype=torch.long)
    open_session = Session if run.logits == "last" else _AllLogits
    with track("cpu", external=weights) as memory, open_session(model, method) as session:
        # What a text costs that is longer than the model was made for is a fair question.
        session.bridge.max_positions = None
        memory.tell_apart(lambda: session.state, head_of(model))
        read = _adopt(session, run, head_of(model)) if shortened else 0
        memory.reset_peak()
        session.prefill(ids[:, read : run.prompt], chunk=run.chunk)
        prefill = memory.peak_parts
        memory.reset_peak()
        for i in range(run.prompt, run.prompt + run.new):
            session.decode(ids[:, i : i + 1])
        held = session.footprint().held.live
        own = footprint(method, session.layers, run.batch, run.prompt, run.new).held.live
        return Peaks(prefill, memory.peak_parts, foreign=held - own)


def _adopt(session: Session, run: Run, head: nn.Module) -> int:
    """Stand where the last growth of the state is still to come; returns the tokens that were adopted."""
    bridge, chosen = session.bridge, session.methods
    if bridge.recurrent or bridge.latents or any(method.adopts is None for method in chosen):
        return 0
    n = _before_last_growth(session, run)
    if not n:
        return 0
    B, layers = run.batch, session.layers
    keys_values = [
        (
            torch.empty(B, layer.hkv, n, layer.d, dtype=layer.dtype),
            torch.empty(B, layer.hkv, n, layer.dv, dtype=layer.dtype),
        )
        for layer in layers
    ]
    queries = [torch.empty(B, layer.hq, n, layer.d, dtype=layer.dtype) for layer in layers]
    weight = next(head.parameters())
    logits = head(weight.new_empty(B, 1, weight.shape[1])).float()
    session.adopt(keys_values, logits[:, -1], queries=queries, seal=False)
    if any("[" in path for state in session.states for path, *_ in leaves(state)):
        # A list of storages tells in how many calls they came.
        session.reset()
        return 0
    return n


def _before_last_growth(session: Session, run: Run) -> int:
    """Tokens before the last whole chunk in which the state's storages grow. A chunk that is shorter peaks lower."""
    ends = [piece * (i + 1) for i, piece in enumerate(run.pieces) if piece == run.pieces[0]]
    live = [footprint(session.method, session.layers, run.batch, n, sealed=False).held.live for n in ends]
    grown = [i for i in range(1, len(ends)) if live[i] > live[i - 1]]
    return ends[grown[-1] - 1] if grown else 0
