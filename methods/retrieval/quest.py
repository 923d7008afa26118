"""Quest (Tang et al. 2024, arXiv:2406.10774): all tokens stay, and a decoded query reads the few pages that may matter
most to it.

Of each full page of `page` tokens the smallest and the largest key of every channel are kept. No key of the page gives
a query a larger logit than

    bound = sum over channels d of max(q_d low_d, q_d high_d)

A query reads the `pages` - 1 full pages with the highest bounds, and the last page, which is being filled. The prompt
is attended in full; and so is all in the first `skip_layers` layers, where attention is not sparse.

That the last page is always read is what the official kernels do; the code of its accuracy tests lets that page
compete with the others. It was written for heads of their own, and for grouped ones lets every query head read other
pages. Here the heads of a group read together, as their keys are one: a page's bound is the largest over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.axes import Selection, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import buffer_footprint


@dataclass
class PageBounds(State):
    """low, high [B, Hkv, pages, D]: of each full page, the extremes of its keys."""

    low: Buf
    high: Buf


@component("selection", "quest")
@dataclass(frozen=True)
class QuestSelection(Selection):
    """Every token stays, and a decoded query reads the pages that may matter most to it.

    page: tokens of a page; pages: how many of them are read, the last one among them; skip_layers: first layers that
    read all.
    """

    page: int = 16
    pages: int = 64
    skip_layers: int = 2

    views: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.page < 1:
            raise ValueError(f"page {self.page} holds no token; set method.page to at least 1")
        if self.pages < 1:
            raise ValueError(f"pages {self.pages} leaves not even the last page; set method.pages to at least 1")
        if self.skip_layers < 0:
            raise ValueError(f"skip_layers {self.skip_layers} is a number of layers and cannot be negative")

    def init(self, layer: Layer, batch: int) -> PageBounds | None:
        if layer.index < self.skip_layers:
            return None
        empty = (Buf.empty(batch, layer.hkv, 0, layer.d, dtype=layer.dtype, device=layer.device) for _ in range(2))
        return PageBounds(*empty)

    def remember(self, state: Any, n: int, keys: Callable[[int, int], Tensor]) -> None:
        if state is None or n // self.page == state.low.n:
            return
        # What is read is chosen without a gradient.
        k = keys(state.low.n * self.page, n // self.page * self.page).detach().unflatten(2, (-1, self.page))
        state.low.append(k.amin(3))
        state.high.append(k.amax(3))

    def view(self, state: Any, q: Tensor, n: int, layer: Layer) -> Tensor | None:
        if state is None or self.viewed(n, layer) == n:
            return None
        low, high = state.low.view(), state.high.view()
        grouped = q[:, :, 0].unflatten(1, (layer.hkv, -1)).float()
        bounds = grouped.clamp(min=0) @ high.float().mT + grouped.clamp(max=0) @ low.float().mT
        chosen = bounds.amax(2).topk(self.pages - 1).indices.sort(-1).values
        slots = (chosen.unsqueeze(-1) * self.page + arange(0, self.page, q)).flatten(2)
        last = arange(self._full(n) * self.page, n, q).expand(*slots.shape[:2], -1)
        return torch.cat([slots, last], 2)

    def _full(self, n: int) -> int:
        """Full pages before the one that holds slot n - 1."""
        return max(0, n - 1) // self.page

    def viewed(self, n: int, layer: Layer) -> int:
        full = self._full(n)
        if layer.index < self.skip_layers or full < self.pages:
            return n
        return n - (full - self.pages + 1) * self.page

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int, sealed: bool) -> Footprint:
        if layer.index < self.skip_layers:
            return Footprint()
        n, entry = prompt + new, layer.hkv * layer.d * layer.dtype.itemsize
        bounds = buffer_footprint(batch, 2 * entry, n // self.page, False)
        return replace(bounds, read=0 if self.viewed(n, layer) == n else 2 * entry * self._full(n))

    def lossless(self, n: int) -> QuestSelection:
        return replace(self, pages=n // self.page + 1)


@register(
    "quest",
    family="retrieval",
    paper="Tang et al. 2024, arXiv:2406.10774, algorithm 1",
    cost="2 Hkv d T elements, and 2 Hkv d floor(T / page); a decoded token reads page x pages tokens and the latter",
    tags=("growing", "internal", "lossy", "per head", "saves time, not memory"),
)
def Quest(page: int = 16, pages: int = 64, skip_layers: int = 2) -> Cached:
    """Quest: all is kept, and a decoded token reads the pages whose keys could give its query the largest logits.

    page in tokens; pages: how many a decoded token reads, the newest among them (64 of 16 tokens: a budget of 1,024);
    skip_layers: first layers that read everything. The prompt is attended in full.
    """
    return Cached(QuestSelection(page, pages, skip_layers))
