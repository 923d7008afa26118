"""Moving average (Xiao & Zhu 2025, Foundations of Large Language Models, arXiv:2501.09223, chapter 2): what leaves the
window lives on as one pair, the mean of the keys and of the values that left. The cumulative mean takes all alike,

    Mem_i = ((k_i, v_i) + i Mem_{i-1}) / (i + 1)

and a weighted one lets older tokens count for less: here a token of age a weighs decay^a, so that it stays one pair,

    Mem_i = ((k_i, v_i) + decay W_{i-1} Mem_{i-1}) / W_i,    W_i = 1 + decay W_{i-1}

The mean of only the last tokens, which must hold them, is in moving_average_window.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.state import State

SlotMass = Literal["one", "count"]


@dataclass
class Mean(State):
    """Mean key [B, Hkv, 1, D] and value [B, Hkv, 1, Dv] in float32, over n tokens."""

    k: Tensor
    v: Tensor
    n: int = 0


@dataclass(frozen=True)
class OneSlotMemory(Memory):
    """Base of memories that are one slot in the softmax, a mean in which a token of age a weighs decay^a. With
    slot_mass="count" the slot weighs as many as it stands for: the log of the sum of weights is added to its logit."""

    decay: float = 1.0
    slot_mass: SlotMass = "one"

    join: ClassVar[Literal["softmax", "gate"] | None] = "softmax"

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(
                f"decay {self.decay} is no weight of what is older; set method.decay above 0, to 1 at most"
            )

    def slots(self) -> int:
        return 1

    def total(self, n: Tensor) -> Tensor:
        """Sum of the weights of n tokens, in float32."""
        n = n.float()
        return n if self.decay == 1 else (1 - self.decay**n) / (1 - self.decay)

    def weighted_sum(self, x: Tensor) -> Tensor:
        """Of all tokens of x [B, H, n, D], the last with weight one; [B, H, 1, D] in float32."""
        ages = arange(0, x.shape[2], x).flip(0)
        return (self.decay ** ages.float()[:, None] * x.float()).sum(2, keepdim=True)

    def trailing_sums(self, x: Tensor, over: int | None = None) -> Tensor:
        """For each token of x [B, H, n, D] the weighted sum of the `over` newest up to it (None: all). By doubling, so
        that nothing is subtracted and no weight exceeds one."""
        n = x.shape[2]
        over = n if over is None else min(over, n)
        if self.decay == 1 and over == n:
            return x.cumsum(2)

        def older(y: Tensor, age: int) -> Tensor:
            return self.decay**age * F.pad(y, (0, 0, age, 0))[:, :, :n]

        total, age, doubled, size = torch.zeros_like(x), 0, x, 1  # `doubled`: sums of the `size` newest
        while age < over:
            if over & size:
                total, age = total + older(doubled, age), age + size
            doubled, size = doubled + older(doubled, size), 2 * size
        return total

    def part(self, q: Tensor, k: Tensor, v: Tensor, mass: Tensor, layer: Layer, keys_at: KeysAt) -> Part:
        """Attention to the slot alone. k, v [B, Hkv, T, D]: the mean as each query finds it (or 1 in place of T);
        mass: the sum of its weights, 0 where nothing has left yet."""
        B, H, n = k.shape[:3]
        # Each of the T means stands in the first slot.
        k = keys_at(k.transpose(1, 2).reshape(B * n, H, 1, -1), 0).view(B, n, H, -1).transpose(1, 2)
        x = (q.unflatten(1, (layer.hkv, -1)).float() * k.unsqueeze(2)).sum(-1) * layer.scale
        if layer.softcap is not None:
            x = layer.softcap * torch.tanh(x / layer.softcap)
        if self.slot_mass == "count":
            x = x + mass.clamp(min=1).log()
        lse = x.masked_fill(mass == 0, -math.inf)
        return v.unsqueeze(2).expand(*x.shape, -1).flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


@component("memory", "moving_average")
@dataclass(frozen=True)
class MovingAverageMemory(OneSlotMemory):
    """One slot: the mean of all that left, or with decay < 1 mostly of what left last."""

    def init(self, layer: Layer, batch: int) -> Mean:
        k, v = (torch.zeros(batch, layer.hkv, 1, d, device=layer.device) for d in (layer.d, layer.dv))
        return Mean(k, v)

    def _after(self, state: Mean, k: Tensor, v: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean key and value after the first counts[t] of k, v, [B, Hkv, T, D], and the sums of their weights."""
        mass = self.total(state.n + counts)
        old = self.decay**counts * self.total(counts.new_tensor(state.n))
        mean_k, mean_v = (
            (mean * old[:, None] + F.pad(self.trailing_sums(x.float()), (0, 0, 1, 0))[:, :, counts])
            / mass.clamp(min=1)[:, None]
            for mean, x in ((state.k, k), (state.v, v))
        )
        return mean_k, mean_v, mass

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        n = k.shape[2]
        old, total = (self.total(state.k.new_tensor(m)) for m in (state.n, state.n + n))
        state.k, state.v = (
            (self.decay**n * old * mean + self.weighted_sum(x)) / total for mean, x in ((state.k, k), (state.v, v))
        )
        state.n += n

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        if state.n + k.shape[2] == 0:
            return None
        if k.shape[2] == 0:
            return self.part(q, state.k, state.v, self.total(counts.new_full((1,), state.n)), layer, keys_at)
        return self.part(q, *self._after(state, k, v, counts), layer, keys_at)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        one = layer.hkv * (layer.d + layer.dv) * torch.float32.itemsize
        return Footprint.of(batch * one, read=one)


@register(
    "moving_average",
    family="memory",
    paper="Xiao & Zhu 2025, arXiv:2501.09223, chapter 2",
    cost="2 Hkv d min(T, w) elements, and one pair of 2 Hkv d in fp32",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def MovingAverage(window: int = 256, slot_mass: SlotMass = "one") -> Cached:
    """A window, and one more slot with the running mean of all that left it.

    window in tokens; with 0 there is nothing but the mean, and the output does not depend on the query.
    """
    return Cached(WindowSelection(window), memory=MovingAverageMemory(slot_mass=slot_mass))


@register(
    "moving_average_weighted",
    family="memory",
    paper="Xiao & Zhu 2025, arXiv:2501.09223, chapter 2",
    cost="2 Hkv d min(T, w) elements, and one pair of 2 Hkv d in fp32",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def MovingAverageWeighted(window: int = 256, decay: float = 0.99, slot_mass: SlotMass = "one") -> Cached:
    """A window, and one more slot with a mean of what left it, in which older tokens weigh less.

    window in tokens, or 0 for the mean alone; a token that left a tokens before the last one weighs decay^a.
    """
    return Cached(WindowSelection(window), memory=MovingAverageMemory(decay, slot_mass))
