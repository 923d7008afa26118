"""The moving average over a window (Xiao & Zhu 2025, Foundations of Large Language Models, arXiv:2501.09223, chapter
2): one slot with the mean of the last n_c keys and values, all alike or with weights that fall with age,

    Mem = sum_j beta_j (k_j, v_j) / sum_j beta_j,    j over the last n_c tokens

What falls out of such a mean must be known, so that its state is the n_c tokens themselves: it saves slots, not bytes.
Alone (window 0) it is the book's; behind a window it averages the n_c tokens that left last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory import fifo
from kvfrontier.methods.memory.moving_average import OneSlotMemory, SlotMass
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.stores.dense import KV


@component("memory", "moving_average_window")
@dataclass(frozen=True)
class WindowAverageMemory(OneSlotMemory):
    """One slot: the mean of the last `over` tokens that left, a token of age a with weight decay^a."""

    over: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over < 1:
            raise ValueError(f"over {self.over} leaves nothing to average; set method.over to at least 1")

    def init(self, layer: Layer, batch: int) -> KV:
        return KV.empty(layer, batch, exact=True)

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        fifo.push(state, k, v, self.over)

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        held, pairs = state.k.n, ((state.k, k), (state.v, v))
        if held + k.shape[2] == 0:
            return None
        if k.shape[2] == 0:
            mass = self.total(counts.new_full((1,), held))
            means = (self.weighted_sum(buf.view()) / mass for buf, _ in pairs)
        else:
            seen = held + counts
            mass = self.total(seen.clamp(max=self.over))
            last = (seen - 1).clamp(min=0)
            means = (
                self.trailing_sums(torch.cat([buf.view(), x], 2).float(), self.over)[:, :, last]
                / mass.clamp(min=1)[:, None]
                for buf, x in pairs
            )
        mean_k, mean_v = means
        return self.part(q, mean_k, mean_v, mass, layer, keys_at)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        return fifo.footprint(layer, batch, gone, self.over)


@register(
    "moving_average_window",
    family="memory",
    paper="Xiao & Zhu 2025, arXiv:2501.09223, chapter 2",
    cost="2 Hkv d min(T, w + n_c) elements, though a query sees w + 1 slots",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def MovingAverageWindow(window: int = 128, over: int = 128, decay: float = 1.0, slot_mass: SlotMass = "one") -> Cached:
    """A window, and one more slot with the mean of the last tokens that left it.

    window and over in tokens; with window 0 there is nothing but the mean, as in the book. decay: a token of age a
    weighs decay^a in the mean.
    """
    return Cached(WindowSelection(window), memory=WindowAverageMemory(decay, slot_mass, over))
