"""(c) Families of methods side by side, through the session that users use: time to the first token, seconds of a
decoded token, bytes held, the allocator's peak."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods import Method, registry
from kvfrontier.runners import compose
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.checks import Found
from kvfrontier.runners.gpu_suite.items import Item
from kvfrontier.runners.peak import storage_bytes
from kvfrontier.runners.session import Session
from kvfrontier.runners.static_step import StaticStep

#: By a short name: the choice, and its parameters where they differ. Of each family one or two, and of each kernel one.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("dense", {}),
    "dense, flash_attn_3": ("dense", {"backend": "flash_attn_3"}),
    "dense, triton": ("dense", {"backend": "triton"}),
    "window": ("window", {"window": 4096}),
    "sinks": ("sinks", {"window": 4092, "sinks": 4}),
    "snapkv": ("snapkv", {}),
    "kivi4": ("kivi4", {}),
    "kivi4, triton": ("kivi4", {"kernel": "triton"}),
    "kivi2, triton": ("kivi2", {"kernel": "triton"}),
    "paged, triton": ("paged", {"kernel": "triton"}),
    "quest": ("quest", {}),
    "compressive": ("compressive", {}),
    "linear": ("linear", {}),
    "linear, fla": ("linear", {"kernel": "fla"}),
    "gla, fla": ("gla", {"kernel": "fla"}),
    "gated_deltanet, fla": ("gated_deltanet", {"kernel": "fla"}),
}
#: Whose blocks in torch take seconds for each ten thousand tokens, or whose prefill is quadratic.
SLOW = ("linear", "compressive", "snapkv")


def items(bench: Bench) -> Iterator[Item]:
    """First the lengths that come first, all methods at one length before the next."""
    s = bench.scale
    for context in s.families:
        for name in METHODS:
            if name in SLOW and context > s.most_prefill:
                continue
            rank = 30 if context in s.first else 52 if context <= s.most_prefill else 57
            act = functools.partial(side_by_side, name=name, context=context)
            yield Item("families", f"families/{name}/{context}", act, rank, 4.0, 100.0)


def built(name: str) -> Method:
    """The method of a short name."""
    choice, parameters = METHODS[name]
    return registry.build({**registry.complete(compose.choice("method", choice)), **parameters})


def side_by_side(bench: Bench, name: str, context: int) -> Found:
    """One method at one length. A quadratic prefill beyond the scale's longest is not read: its cache is filled with
    random keys and values, and there is no time to the first token."""
    s, method, model = bench.scale, built(name), bench.model(bench.scale.layers)
    prompt, new = context - s.new, s.new
    ids = bench.ids(context)
    bench.forget_peak()
    begun_with = torch.cuda.memory_allocated() if bench.on_cuda else 0
    with Session(model, method) as session:
        session.bridge.max_positions = None
        prefill = None
        if prompt > s.most_prefill and method.adopts == "kv":
            fill(bench, session, prompt)
        else:
            begun = bench.now()
            session.prefill(ids[:, :prompt], chunk=s.chunk)
            prefill = bench.now() - begun
        prefill_peak = bench.most_allocated()
        session.decode(ids[:, prompt])  # a kernel's first call compiles it
        bench.forget_peak()
        steps = []
        for i in range(prompt + 1, context):
            begun = bench.now()
            session.decode(ids[:, i])
            steps.append(bench.now() - begun)
        held, told = session.state_bytes(), session.footprint()
        if held != told.held:
            raise AssertionError(f"the state holds {held}, and its footprint says {told.held}")
        decode, graphed = sorted(steps)[len(steps) // 2], _graphed(bench, session, ids)
        weights = storage_bytes([*model.parameters(), *model.buffers()])
        return {
            "ttft": prefill, "decode": decode, "state": held.payload, "slack": held.slack, "bytes_read": told.read,
            "prefill_peak": prefill_peak, "decode_peak": bench.most_allocated(), "before": begun_with,
            "mbu": (weights + told.read) / decode / bench.bandwidth, "layers": s.layers, "new": new,
            "graph_decode": graphed,
        }  # fmt: skip


def _graphed(bench: Bench, session: Session, ids: Tensor) -> float | None:
    """Seconds of a decoded token as a CUDA graph, where the method's state keeps its shape."""
    if not bench.on_cuda:
        return None
    try:
        step = StaticStep(session)
    except ValueError:
        return None
    times = []
    for i in range(bench.scale.new):
        begun = bench.now()
        step.decode(ids[:, i])
        times.append(bench.now() - begun)
    return sorted(times)[len(times) // 2]


class Drawn(Sequence[tuple[Tensor, Tensor]]):
    """Random keys and values of each layer, made when they are asked for, so that one layer's are there at a time."""

    def __init__(self, bench: Bench, layers: int, n: int) -> None:
        self._bench, self._layers, self._n = bench, layers, n

    def __len__(self) -> int:
        return self._layers

    def __getitem__(self, index: Any) -> Any:
        if index >= self._layers:
            raise IndexError(index)
        s = self._bench.scale
        return tuple(self._bench.drawn(1, s.hkv, self._n, s.d) for _ in range(2))


def fill(bench: Bench, session: Session, n: int) -> None:
    """Let the session stand after n random tokens."""
    vocabulary = bench.scale.vocabulary
    layers = len(session.bridge.layers)
    session.adopt(Drawn(bench, layers, n), torch.zeros(1, vocabulary, device=bench.device))
