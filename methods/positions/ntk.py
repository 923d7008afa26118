"""Dynamic NTK-aware scaling (Peng et al. 2023, arXiv:2309.00071, section 3.3 and equation 16): the base of RoPE grows
with the text, so that the slowest pair just covers it and the fastest turns as trained. With d dimensions that turn,

    s = max(1, factor L / trained - (factor - 1)),   base' = base s^(d / (d - 2)),

L being the current length: up to the trained length nothing changes. Keys are kept before RoPE and rotated when they
are attended, so that all agree with the query on one base; a cache of rotated keys mixes the bases of many lengths. L
grows in steps counted from the trained length, and each query takes the end of its step for L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from kvfrontier.methods.axes import ENDLESS, Positions, Selection, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer, Rope
from kvfrontier.methods.positions.frequencies import Stretched, check_stretch, trained_length
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import component, register


@dataclass(frozen=True)
class Rebased(Stretched):
    """Slots as positions, under the base that covers `scale` times the trained length."""

    scale: float

    at_use: ClassVar[bool] = True

    def frequencies(self, rope: Rope) -> Tensor:
        f = rope.frequencies
        # base^(-2 i / d) under base s^(d / (d - 2)).
        return f * self.scale ** -(arange(0, len(f), f) / max(1, len(f) - 1))

    def keys(self, k: Tensor, slot: int, layer: Layer) -> Tensor:
        return self.turn(k, arange(slot, slot + k.shape[2], k)[None], layer)

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        assert q_pre is not None
        return self.turn(q_pre, slots[None], layer)


@component("positions", "ntk")
@dataclass(frozen=True)
class NtkPositions(InCachePositions):
    """RoPE with a base that grows with the current length.

    trained  tokens that the model was made for; None: what it says itself
    factor   how fast the base grows beyond them
    step     tokens by which the length grows at a time; 1 rescales for every token
    """

    trained: int | None = None
    factor: float = 1.0
    step: int = 256

    def __post_init__(self) -> None:
        check_stretch(self.factor, self.trained)
        if self.step < 1:
            raise ValueError(f"step {self.step} is no number of tokens; set method.step to at least 1")

    def room(self, n: int, selection: Selection, layer: Layer) -> int:
        if layer.rope is None:
            return ENDLESS
        beyond = n - trained_length(self.trained, layer.rope)
        return -beyond if beyond < 0 else self.step - beyond % self.step

    def at(self, n: int, layer: Layer) -> Positions:
        if layer.rope is None:
            return self
        trained = trained_length(self.trained, layer.rope)
        steps = -(-max(0, n - trained) // self.step)
        return Rebased(1 + self.factor * steps * self.step / trained)

    def reach(self, trained: float) -> float:
        return math.inf

    def lossless(self, n: int) -> NtkPositions:
        return replace(self, trained=n)


@register(
    "ntk",
    family="positions",
    paper="Peng et al. 2023, arXiv:2309.00071, section 3.3",
    cost="2 Hkv d T elements, keys before RoPE",
    tags=("growing", "internal", "lossy", "per layer"),
)
def NTK(trained: int | None = None, factor: float = 1.0, step: int = 256) -> Cached:
    """Dynamic NTK-aware scaling: the full cache, and a base of RoPE that grows with the text.

    trained: tokens that the model was made for (null: what it says); factor: how fast the base grows beyond them; step:
    tokens by which the length grows at a time.
    """
    return Cached(positions=NtkPositions(trained, factor, step))
