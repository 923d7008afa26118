"""Keys and values in host memory. A layer's are brought to the device while the layer before it attends, and let go
when it has attended: between calls the device holds none of them.

Every decoded token moves all of them once. What is saved is memory, and the bus pays: 2 Hkv d T elements a layer. What
a call adds is attended where it is, and written through to the host.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.axes import Store, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.state import Buf, Bytes, Host, State
from kvfrontier.methods.stores.dense import KV, DenseStore

_DENSE = DenseStore()


@dataclass
class PinnedBuf(Buf):
    """A buffer in page-locked memory, from which a copy to the device runs beside the computation."""

    def append(self, y: Tensor) -> None:
        super().append(y)
        self._pin()

    def set(self, y: Tensor) -> None:
        super().set(y)
        self._pin()

    def _pin(self) -> None:
        # What has grown is allocated anew, and a fork's copy is not page-locked. A planner's tensors have no memory.
        if type(self.x) is Tensor and not (self.x.requires_grad or self.x.is_pinned()):
            self.x = self.x.pin_memory()


@functools.cache
def _stream(device: str, lane: int) -> Any:
    """A stream for copies to a device. Neighbouring layers have different lanes, so that one need not wait for the
    other's."""
    return torch.cuda.Stream(device)


@dataclass
class OnHost(State):
    """host: KV in host memory; here: the same on the device, only during a call; device: where that is; lane: see
    `_stream`."""

    host: Host
    here: KV | None
    device: str
    lane: int


@component("store", "offloaded")
@dataclass(frozen=True)
class OffloadedStore(Store):
    """Keys and values as they are, in host memory."""

    def init(self, layer: Layer, batch: int, bounded: bool) -> OnHost:
        device = torch.device(layer.device)
        buf = PinnedBuf if device.type == "cuda" else Buf
        k, v = (
            buf.empty(batch, layer.hkv, 0, d, exact=bounded, dtype=layer.dtype, device="cpu")
            for d in (layer.d, layer.dv)
        )
        return OnHost(Host(KV(k, v)), None, str(device), layer.index % 2)

    def n(self, state: Any) -> int:
        return state.host.inner.k.n

    def prefetch(self, state: Any) -> None:
        if state.here is not None or self.n(state) == 0:
            return
        if torch.device(state.device).type != "cuda":
            state.here = self._copied(state)
            return
        with torch.cuda.stream(_stream(state.device, state.lane)):
            state.here = self._copied(state)

    def _copied(self, state: Any) -> KV:
        """On the device, with room for one more token."""
        copies = []
        for buf in (state.host.inner.k, state.host.inner.v):
            x = buf.view()
            copy = torch.empty(*x.shape[:2], buf.n + 1, x.shape[3], dtype=x.dtype, device=state.device)
            copy[:, :, : buf.n].copy_(x, non_blocking=True)
            copies.append(Buf(copy, buf.n))
        return KV(*copies)

    def _arrived(self, state: Any) -> KV | None:
        """What was prefetched, once it is there."""
        here = state.here
        if here is not None and here.k.x.is_cuda:
            current = torch.cuda.current_stream(here.k.x.device)
            current.wait_stream(_stream(state.device, state.lane))
            here.k.x.record_stream(current)
            here.v.x.record_stream(current)
        return here

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        here = self._arrived(state)
        if here is not None:
            _DENSE.append(here, k, v)
        elif self.n(state) == 0:
            state.here = KV(Buf(k, k.shape[2]), Buf(v, v.shape[2]))
        _DENSE.append(state.host.inner, k.to("cpu"), v.to("cpu"))

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        here = self._arrived(state)
        if here is not None:
            return _DENSE.read(here, begin, end)
        k, v = _DENSE.read(state.host.inner, begin, end)
        return k.to(state.device, copy=True), v.to(state.device, copy=True)

    def gather(self, state: Any, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Only these move, unless all are here."""
        here = self._arrived(state)
        if here is not None:
            return gather(here.k.view(), slots), gather(here.v.view(), slots)
        kv, slots = state.host.inner, slots.to("cpu")
        return gather(kv.k.view(), slots).to(state.device), gather(kv.v.view(), slots).to(state.device)

    def settle(self, state: Any) -> None:
        state.here = None

    def seal(self, state: Any) -> None:
        state.here = None

    def take(self, state: Any, keep: Tensor) -> None:
        state.here = None
        _DENSE.take(state.host.inner, keep.to("cpu"))

    def drop(self, state: Any, begin: int, end: int) -> None:
        here = self._arrived(state)
        if end == self.n(state):
            state.here = None  # the end of a call that only scores
        elif here is not None:
            _DENSE.drop(here, begin, end)
        _DENSE.drop(state.host.inner, begin, end)

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        resident = _DENSE.footprint(layer, batch, slots, sealed, bounded)
        return Footprint(Bytes(host=resident.held.device, host_slack=resident.held.device_slack), resident.read)


@register(
    "offloaded",
    family="store",
    cost="2 Hkv d T elements in host memory, all of which move to the device for every token; none on it between calls",
    tags=("growing", "external", "exact", "per layer"),
)
def Offloaded() -> Cached:
    """The full cache in host memory, each layer's brought to the device while the layer before it attends."""
    return Cached(store=OffloadedStore())
