"""Ada-KV (Feng et al. 2024, arXiv:2407.11550): some heads look at few tokens, others at many, so that a layer's budget
is better spent where it is needed. Tokens are scored as in SnapKV, and the layer's highest scores, whatever their head,
say how many tokens each head deserves; a share `alpha` of the budget is dealt to all alike, lest a head starve
(algorithm 1):

    b_h = (1 - alpha) |{top Hkv (b - w) scores of the layer} in head h| + alpha (b - w)

of which head h keeps its own best, beside the window of w. The layer's total is exact: whole tokens are dealt by
largest remainder, where the official code rounds each head. It pools scores by their maximum (pooling=max); here
SnapKV's mean is the default, so that budgets are all in which the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.snapkv import Pooling, SnapKVSelection
from kvfrontier.methods.stores.ragged import RaggedStore


@component("selection", "adakv")
@dataclass(frozen=True)
class AdaKVSelection(SnapKVSelection):
    """`budget` tokens a head on average, in each head as many as its scores deserve."""

    alpha: float = 0.2

    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                f"alpha {self.alpha} is the share dealt to all heads alike; set method.alpha within 0 to 1"
            )

    def choose(self, scores: Tensor, m: int) -> tuple[Tensor, Tensor]:
        heads, past = scores.shape[1], scores[..., : -self.window]
        best = past.sort(dim=-1, descending=True, stable=True).indices
        rank = best.argsort(dim=-1)
        keep = rank < self.deserved(past, m - self.window).unsqueeze(-1)
        kept = F.pad(keep, (0, self.window), value=True).flatten(1).to(torch.uint8)
        order = kept.sort(dim=-1, descending=True, stable=True).indices
        return order[:, : heads * m], order[:, heads * m :]

    def deserved(self, past: Tensor, mean: int) -> Tensor:
        """Tokens [B, Hkv] that each head keeps of its scores [B, Hkv, n], `mean` on average."""
        total = past.shape[1] * mean
        top = past.flatten(1).sort(dim=-1, descending=True, stable=True).indices[:, :total]
        among_top = torch.zeros(past.flatten(1).shape, device=past.device).scatter(1, top, 1.0).view_as(past).sum(-1)
        quota = (1 - self.alpha) * among_top.double() + self.alpha * mean
        whole = quota.floor().long()
        left = total - whole.sum(-1, keepdim=True)
        by_remainder = (quota - whole).sort(dim=-1, descending=True, stable=True).indices
        return whole + (by_remainder.argsort(dim=-1) < left).long()


@register(
    "adakv",
    family="selection",
    paper="Feng et al. 2024, arXiv:2407.11550, algorithm 1",
    cost="2 Hkv d (min(T, b) + generated) elements, and Hkv lengths; until seal 2 Hkv d T, and Hq d w of queries",
    tags=("growing", "internal", "lossy", "per head"),
)
def AdaKV(
    budget: int = 256, window: int = 32, kernel: int = 7, alpha: float = 0.2, pooling: Pooling = "mean"
) -> Cached:
    """Ada-KV: SnapKV with more tokens in heads whose attention is spread out, and fewer in the others.

    budget: tokens that stay in each layer and head, on average over its heads, the window's among them; window: queries
    that vote (always kept); kernel: width of the pooling; alpha: share of the budget dealt to all heads alike.
    """
    return Cached(AdaKVSelection(budget, window, kernel, pooling, alpha), RaggedStore())
