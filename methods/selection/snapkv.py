"""SnapKV (Li et al. 2024, arXiv:2404.14469): the prompt's last queries say which of its tokens matter.

When the prompt ends: softmax of the last `window` queries over the past, summed over these queries, averaged over the
query heads of a group, pooled along the tokens; the highest stay, and the window itself. The official code expands the
grouped heads and selects for each; here the cache stays grouped, so that a group selects together. Pooling is the mean,
as in the official code unless told otherwise; its LongBench runs, whose window and kernel are the defaults here, take
the maximum (pooling=max).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import Call, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Phase
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection
from kvfrontier.methods.state import Buf, State

Pooling = Literal["mean", "max"]


@dataclass
class LastQueries(State):
    """q [B, Hq, min(window, n), D]: the prompt's last queries, as attended."""

    q: Buf


@component("selection", "snapkv")
@dataclass(frozen=True)
class SnapKVSelection(SealSelection):
    """`budget` tokens stay in each layer and head, the last `window` among them; scores are pooled over `kernel`."""

    window: int = 32
    kernel: int = 7
    pooling: Pooling = "mean"

    observes: ClassVar[tuple[Phase, ...]] = ("prefill", "decode")
    query_sensitive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window {self.window} gives no query to score with; set method.window to at least 1")
        if self.budget < self.window:
            raise ValueError(
                f"budget {self.budget} is smaller than the observation window {self.window}, which always stays; "
                "raise method.budget or lower method.window"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd, so that pooling is centred")

    @property
    def last_queries(self) -> int:
        return self.window

    def init(self, layer: Layer, batch: int) -> LastQueries:
        return LastQueries(Buf.empty(batch, layer.hq, 0, layer.d, exact=True, dtype=layer.dtype, device=layer.device))

    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        state.q.set(torch.cat([state.q.view(), call.q[:, :, -self.window :]], 2)[:, :, -self.window :])

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        q = state.q.view()
        n, w = k.shape[2], q.shape[2]
        x = logits(q, k, layer.scale, layer.softcap)
        unseen = arange(0, n, k) > arange(n - w, n, k)[:, None]
        # [B, Hkv, G, w, n] -> [B, Hkv, n]: sum over queries, mean over the group.
        past = x.masked_fill(unseen, float("-inf")).softmax(-1).sum(3).mean(2)[..., : n - w]
        pool = F.avg_pool1d if self.pooling == "mean" else F.max_pool1d
        pooled = pool(past, self.kernel, stride=1, padding=self.kernel // 2)
        return F.pad(pooled, (0, w), value=float("inf"))

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int, sealed: bool) -> Footprint:
        if sealed:
            return Footprint()
        return Footprint.of(batch * layer.hq * min(self.window, prompt + new) * layer.d * layer.dtype.itemsize, read=0)


@register(
    "snapkv",
    family="selection",
    paper="Li et al. 2024, arXiv:2404.14469, algorithm 1",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T, and Hq d w of queries",
    tags=("growing", "internal", "lossy", "per head"),
)
def SnapKV(budget: int = 256, window: int = 32, kernel: int = 7, pooling: Pooling = "mean") -> Cached:
    """SnapKV: at the end of the prompt keep the tokens that its last queries attend to.

    budget: tokens that stay in each layer and head, the window's among them; window: queries that vote (always kept);
    kernel: width of the pooling, which takes the mean or the maximum. What is generated comes on top.
    """
    return Cached(SnapKVSelection(budget, window, kernel, pooling))
