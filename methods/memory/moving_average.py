"""Moving average (Xiao & Zhu 2025, Foundations of Large Language Models, arXiv:2501.09223, chapter 2): what leaves the
window lives on as one pair, the running mean of the keys and of the values that left:

    Mem_i = ((k_i, v_i) + i Mem_{i-1}) / (i + 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.state import State


@dataclass
class Mean(State):
    """Mean key [B, Hkv, 1, D] and value [B, Hkv, 1, Dv] in float32, over n tokens."""

    k: Tensor
    v: Tensor
    n: int = 0


@dataclass(frozen=True)
class MovingAverageMemory(Memory):
    """One slot; with slot_mass="count" it weighs as many as it stands for (log n is added to its logit)."""

    slot_mass: Literal["one", "count"] = "one"

    join: ClassVar[Literal["softmax", "gate"] | None] = "softmax"

    def init(self, layer: Layer, batch: int) -> Mean:
        k, v = (torch.zeros(batch, layer.hkv, 1, d, device=layer.device) for d in (layer.d, layer.dv))
        return Mean(k, v)

    def slots(self) -> int:
        return 1

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        total = state.n + k.shape[2]
        state.k = (state.k * state.n + k.float().sum(2, keepdim=True)) / total
        state.v = (state.v * state.n + v.float().sum(2, keepdim=True)) / total
        state.n = total

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        if state.n + k.shape[2] == 0:
            return None
        grouped = q.unflatten(1, (layer.hkv, -1)).float()
        if k.shape[2] == 0:
            mean_k, mean_v, n = state.k, state.v, counts.new_full((1,), state.n)
        else:
            # The mean as each query finds it, [B, Hkv, T, D]: prefix sums of what leaves in this call.
            n = state.n + counts
            mean_k, mean_v = (
                (mean * state.n + torch.cat([torch.zeros_like(mean), x.float().cumsum(2)], 2)[:, :, counts])
                / n.clamp(min=1)[:, None]
                for mean, x in ((state.k, k), (state.v, v))
            )
        x = (grouped * mean_k.unsqueeze(2)).sum(-1) * layer.scale
        if layer.softcap is not None:
            x = layer.softcap * torch.tanh(x / layer.softcap)
        if self.slot_mass == "count":
            x = x + n.clamp(min=1).log()
        lse = x.masked_fill(n == 0, -math.inf)
        o = mean_v.unsqueeze(2).expand(*x.shape, -1)
        return o.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)

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
def MovingAverage(window: int = 256, slot_mass: Literal["one", "count"] = "one") -> Cached:
    """A window, and one more slot with the running mean of all that left it.

    window in tokens; with 0 there is nothing but the mean, and the output does not depend on the query.
    """
    return Cached(WindowSelection(window), memory=MovingAverageMemory(slot_mass))
