"""LOOK-M's merging (Wan et al. 2024, arXiv:2406.18139, section 3.3): a token that is evicted goes into the one that
stays with the most similar key. With N the tokens that go into token c,

    pivot      k_c <- (k_c + sum over e in N of (k_e + k_c) / 2) / (|N| + 1)
    average    k_c <- (k_c + sum over e in N of k_e) / (|N| + 1)
    weighted   k_c <- (k_c + sum over e in N of cos(k_e, k_c) k_e) / (|N| + 1)

and its value by the same N and weights. Nothing is held beside the tokens that stay, and a merged token weighs in the
softmax as one. The paper evicts image tokens before text; here any selection by scores decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.axes import Memory, Selection, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import called, component, register
from kvfrontier.methods.selection.snapkv import SnapKVSelection

Merge = Literal["pivot", "average", "weighted"]
#: Evicted tokens whose similarities to all that stay exist at once.
TILE = 1024


@component("memory", "look_m")
@dataclass(frozen=True)
class MergingMemory(Memory):
    """What leaves is merged into what stays, in the way that `merge_by` names."""

    merge_by: Merge = "pivot"

    merges: ClassVar[bool] = True

    def check(self, selection: Selection) -> None:
        if selection.when not in ("seal", "stream") or selection.ragged:
            raise ValueError(
                f"merging needs tokens that leave by scores, as many from each head, and {called(selection)} lets "
                "none leave so; choose another selection, such as method/selection=snapkv or h2o"
            )

    def merge(
        self, state: Any, k: Tensor, v: Tensor, keep: Tensor, gone: Tensor, received: Tensor | None, layer: Layer
    ) -> tuple[Tensor, Tensor]:
        gone_k, gone_v, k, v = (gather(x, slots) for slots in (gone, keep) for x in (k, v))
        towards = F.normalize(k.float(), dim=3).mT
        count = k.new_zeros(k.shape[:3], dtype=torch.float32)
        sums = [torch.zeros_like(x, dtype=torch.float32) for x in (k, v)]
        for tile_k, tile_v in zip(gone_k.float().split(TILE, 2), gone_v.float().split(TILE, 2), strict=True):
            similarity, into = (F.normalize(tile_k, dim=3) @ towards).max(-1, keepdim=True)
            # A product with ones and zeros instead of a scatter, whose sums have no fixed order.
            chosen = torch.zeros_like(similarity.expand(-1, -1, -1, k.shape[2])).scatter(3, into, 1.0)
            count = count + chosen.sum(2)
            weight = similarity if self.merge_by == "weighted" else 1.0
            sums = [total + (chosen * weight).mT @ x for total, x in zip(sums, (tile_k, tile_v), strict=True)]
        count = count.unsqueeze(3)
        k, v = (
            ((x + (total + count * x) / 2 if self.merge_by == "pivot" else x + total) / (count + 1)).to(x.dtype)
            for x, total in zip((k, v), sums, strict=True)
        )
        return k, v


@register(
    "look_m",
    family="memory",
    paper="Wan et al. 2024, arXiv:2406.18139, section 3.3, over SnapKV's selection",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T, and Hq d w of queries",
    tags=("growing", "internal", "lossy", "per head"),
)
def LookM(budget: int = 256, window: int = 32, kernel: int = 7, merge_by: Merge = "pivot") -> Cached:
    """LOOK-M: at the end of the prompt, tokens that are evicted are merged into the most similar ones that stay.

    budget, window, kernel: which stay, as for snapkv; merge_by: pivot, average or weighted, as in the paper.
    """
    return Cached(SnapKVSelection(budget, window, kernel), memory=MergingMemory(merge_by))
