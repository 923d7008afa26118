"""Positions in the cache (Xiao et al. 2023, arXiv:2309.17453, section 3.2): keys are kept before RoPE, and rotated to
the slot in which they stand when they are attended, so that distances never exceed the size of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvfrontier.methods.axes import Positions, arange
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component


@component("positions", "in_cache")
@dataclass(frozen=True)
class InCachePositions(Positions):
    """The slot is the position. A model without RoPE has nothing to rotate."""

    unrotated: ClassVar[bool] = True
    at_use: ClassVar[bool] = True

    def stored(self, k: Tensor, k_pre: Tensor | None, pos: Tensor, layer: Layer) -> Tensor:
        assert k_pre is not None
        return k_pre

    def keys(self, k: Tensor, slot: int, layer: Layer) -> Tensor:
        if layer.rope is None:
            return k
        return layer.rope.apply(k, arange(slot, slot + k.shape[2], k)[None])

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        assert q_pre is not None
        return q_pre if layer.rope is None else layer.rope.apply(q_pre, slots[None])
