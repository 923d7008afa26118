"""TOVA (Oren et al. 2024, arXiv:2401.06104): a transformer as a network of bounded state, which drops what its newest
token looks at least.

Of more than `budget` tokens the one with the lowest attention weight of the last query leaves, mean over all heads of
the layer, so that all heads keep the same tokens. Nothing is favoured for its age, not even the newest token. The
prompt is evicted token by token like the rest; the official code attends to all of it, and evicts down to the budget
at once, by its last query. So does TOVAPress of NVIDIA's kvpress, whose tables (RULER) then count what is generated on
top: there one query, the question's last token where it is part of the prompt, chooses among all tokens, and here each
token of the prompt has chosen among those that earlier ones left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.axes import Call
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.stream import StreamSelection
from kvfrontier.methods.state import Buf, State


@dataclass
class LastWeights(State):
    """x [B, n] float32: weights of the last query, held only from its call to the eviction that follows; seen: tokens
    so far."""

    x: Buf
    seen: int = 0


@component("selection", "tova")
@dataclass(frozen=True)
class TOVASelection(StreamSelection):
    """`budget` tokens in each layer, the same in all its heads."""

    query_sensitive: ClassVar[bool] = True

    def init(self, layer: Layer, batch: int) -> LastWeights:
        return LastWeights(Buf.empty(batch, 0, dim=1, exact=True, dtype=torch.float32, device=layer.device))

    @torch.no_grad()
    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        T = call.q.shape[2]
        if self.room(state.seen) == T:
            state.x.set(call.weights(T - 1, T).mean((1, 2)).squeeze(1))
        state.seen += T

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        return state.x.view().unsqueeze(1).expand(-1, layer.hkv, -1)

    def took(self, state: Any, keep: Tensor) -> None:
        state.x.set(state.x.view()[:, :0])


@register(
    "tova",
    family="selection",
    paper="Oren et al. 2024, arXiv:2401.06104",
    cost="2 Hkv d min(T, b) elements",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def TOVA(budget: int = 256, block: int = 1) -> Cached:
    """TOVA: drop the token that the newest one looks at least.

    budget: tokens that stay in each layer; block: tokens after which it evicts back to the budget (1: after each, as in
    the paper; more is faster, and holds up to block - 1 tokens more).
    """
    return Cached(TOVASelection(budget, block))
