"""Keys and values as they are, contiguous, in buffers that grow by eighths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part, special
from kvfrontier.methods.axes import Store, gather
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Buf, State, capacity


@dataclass
class KV(State):
    """k [B, Hkv, n, D] and v [B, Hkv, n, Dv]."""

    k: Buf
    v: Buf

    @classmethod
    def empty(cls, layer: Layer, batch: int, exact: bool) -> KV:
        return cls(
            *(
                Buf.empty(batch, layer.hkv, 0, d, exact=exact, dtype=layer.dtype, device=layer.device)
                for d in (layer.d, layer.dv)
            )
        )


def buffer_footprint(batch: int, entry: int, n: int, exact: bool) -> Footprint:
    """Footprint of a `Buf` of n entries of `entry` bytes a sequence."""
    unused = 0 if exact else capacity(n) - n
    return Footprint.of(batch * n * entry, batch * unused * entry, read=n * entry)


def remove(buf: Buf, begin: int, end: int) -> None:
    """Take the entries `begin` to `end` out of a buffer of tokens."""
    x = buf.view()
    if begin == 0 or end == buf.n:
        buf.set(x[:, :, end:] if begin == 0 else x[:, :, :begin])
    else:
        buf.set(torch.cat([x[:, :, :begin], x[:, :, end:]], 2))


@dataclass(frozen=True)
class DenseStore(Store):
    """Keys and values as they are: 2 Hkv D T elements."""

    def init(self, layer: Layer, batch: int, bounded: bool) -> KV:
        return KV.empty(layer, batch, exact=bounded)

    def n(self, state: Any) -> int:
        return state.k.n

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.k.append(k)
        state.v.append(v)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        return state.k.cut(begin, end), state.v.cut(begin, end)

    def attend_slots(self, state: Any, q: Tensor, slots: Tensor, layer: Layer, attend: Attend, lse: bool) -> Part:
        kernel = special(attend, "attend_slots")
        if kernel is None:
            return super().attend_slots(state, q, slots, layer, attend, lse)
        return kernel(q, state.k.view(), state.v.view(), slots, scale=layer.scale, softcap=layer.softcap)

    def take(self, state: Any, keep: Tensor) -> None:
        state.k.set(gather(state.k.view(), keep))
        state.v.set(gather(state.v.view(), keep))

    def drop(self, state: Any, begin: int, end: int) -> None:
        for buf in (state.k, state.v):
            remove(buf, begin, end)

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        return buffer_footprint(batch, layer.kv_bytes, slots, bounded)
