"""H2O (Zhang et al. 2023, arXiv:2306.14048): few tokens, the heavy hitters, receive most of the attention, and go on
receiving it.

A token's mass is the attention weight that it has received so far,

    mass_s = sum over queries t >= s, and over the query heads of a group, of softmax(q_t K / sqrt(d))_s

Of more than `budget` tokens the newest `recent` stay, and of the others those with the most mass. The weights are those
over the tokens still there: what was dropped gets none, and takes its mass with it. So the state is bounded in the
prompt too, as in algorithm 1. The official code attends to the whole prompt, and evicts for the first time when it has
ended. So do the runs behind published tables (PyramidKV's table 1; ObservedAttentionPress of NVIDIA's kvpress, which
takes the mean weight a token received): there every prompt token is scored by all that follow it, the cache is as large
as the prompt until then, and what is generated is not evicted. Their figures for H2O are therefore not those of this
method at the same budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend.eager import BLOCK
from kvfrontier.methods.axes import Call
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.stream import StreamSelection
from kvfrontier.methods.state import Buf, State


@dataclass
class Mass(State):
    """x [B, Hkv, n] float32: attention that each slot has received."""

    x: Buf


@component("selection", "h2o")
@dataclass(frozen=True)
class H2OSelection(StreamSelection):
    """`budget` tokens in each head, the newest `recent` (None: half of them) among them."""

    recent: int | None = None

    query_sensitive: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recent is not None and not 1 <= self.recent <= self.budget:
            raise ValueError(
                f"recent {self.recent} of a budget of {self.budget} tokens stay whatever their mass; set method.recent "
                "between 1 and method.budget"
            )

    @property
    def _recent(self) -> int:
        return max(1, self.budget // 2) if self.recent is None else self.recent

    def init(self, layer: Layer, batch: int) -> Mass:
        return Mass(Buf.empty(batch, layer.hkv, 0, exact=True, dtype=torch.float32, device=layer.device))

    @torch.no_grad()
    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        T, before = call.q.shape[2], state.x.view()
        mass = torch.cat([before, before.new_zeros(*before.shape[:2], T)], 2)
        for a in range(0, T, BLOCK):
            mass += call.weights(a, min(T, a + BLOCK)).sum((2, 3))
        state.x.set(mass)

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        old = state.x.view()[..., : k.shape[2] - self._recent]
        return torch.cat([old, old.new_full((*old.shape[:2], self._recent), float("inf"))], -1)

    def received(self, state: Any) -> Tensor:
        return state.x.view()

    def took(self, state: Any, keep: Tensor) -> None:
        state.x.set(state.x.view().gather(2, keep))

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int, sealed: bool) -> Footprint:
        one = layer.hkv * self.slots(prompt, new, sealed, layer) * torch.float32.itemsize
        return Footprint.of(batch * one, read=one)


@register(
    "h2o",
    family="selection",
    paper="Zhang et al. 2023, arXiv:2306.14048, algorithm 1",
    cost="2 Hkv d min(T, b) elements, and Hkv min(T, b) of mass in fp32",
    tags=("fixed", "internal", "lossy", "per head"),
)
def H2O(budget: int = 256, recent: int | None = None, block: int = 1) -> Cached:
    """H2O: keep the tokens that have received the most attention, and the newest.

    budget: tokens that stay in each layer and head, the newest `recent` (None: half of the budget, as in the paper)
    among them; block: tokens after which it evicts back to the budget (1: after each, as in the paper; more is faster,
    and holds up to block - 1 tokens more).
    """
    return Cached(H2OSelection(budget, block, recent))
