"""Stores of latents: one vector a token for all heads, from which their keys and values can be computed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part
from kvfrontier.methods.axes import KeysAt, Span, Store, gather
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import buffer_footprint

#: Tokens whose keys and values are computed at once.
TILE = 2048


@dataclass
class Latents(State):
    """x [B, 1, n, W]: the latents, whose first `front` elements can stand for the value of one head."""

    x: Buf
    front: int


@dataclass(frozen=True)
class LatentStore(Store):
    """W T elements, whatever the number of heads: keys [B, 1, n, W] of one head, whose values are the front of them."""

    def width(self, layer: Layer) -> int:
        """W, elements of one token."""
        raise NotImplementedError

    def front(self, layer: Layer) -> int:
        """Elements of it that are the value."""
        return self.width(layer)

    def init(self, layer: Layer, batch: int, bounded: bool) -> Latents:
        options: dict[str, Any] = {"exact": bounded, "dtype": layer.dtype, "device": layer.device}
        return Latents(Buf.empty(batch, 1, 0, self.width(layer), **options), self.front(layer))

    def n(self, state: Any) -> int:
        return state.x.n

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.x.append(k)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        x = state.x.view()[:, :, begin:end]
        return x, x[..., : state.front]

    def take(self, state: Any, keep: Tensor) -> None:
        state.x.set(gather(state.x.view(), keep))

    def drop(self, state: Any, begin: int, end: int) -> None:
        x = state.x.view()
        state.x.set(torch.cat([x[:, :, :begin], x[:, :, end:]], 2))

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        return buffer_footprint(batch, self.width(layer) * layer.dtype.itemsize, slots, bounded)

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        return batch * slots * self.width(layer) * layer.dtype.itemsize


@dataclass(frozen=True)
class ExpandedStore(LatentStore):
    """Queries are the heads' own, and meet keys and values that are computed from the latents, a tile at a time."""

    def expand(self, x: Tensor, slot: int, layer: Layer) -> tuple[Tensor, Tensor]:
        """Keys [B, Hkv, n, D] as attended and values [B, Hkv, n, Dv] of latents x [B, 1, n, W], the first of them in
        `slot`."""
        raise NotImplementedError

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        # The call's own tokens stand in the last tile.
        last = max(span.begin, span.end - max(q.shape[2], TILE))
        edges = [*range(span.begin, last, TILE), last, span.end]
        several = len(edges) > 2
        return [
            attend(
                q, *self.expand(state.x.view()[:, :, a:b], a, layer), scale=layer.scale, softcap=layer.softcap,
                causal=b == span.end, lse=lse or several,
            )
            for a, b in itertools.pairwise(edges)
        ]  # fmt: skip
