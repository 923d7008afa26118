"""MoBA, mixture of block attention (Lu et al. 2025, arXiv:2502.13189, equations 2 to 6): every query head of every
token chooses the blocks of the past that it attends to, by their mean keys:

    score_i = q . mean(K_i)        for blocks i that ended before t's own
    o_t = softmax(q K^T scale) V   over the topk - 1 blocks of highest score, and t's own up to t

The whole cache stays, and beside it a mean key a block, which is all that is read of the blocks that are not chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend import add_sink_logits
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import whole
from kvfrontier.methods.patterns.selected import attend_selected
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV, buffer_footprint

#: Queries whose choices are computed at once.
QUERIES = 1024


@dataclass
class MobaState(State):
    """kv: everything; means [B, Hkv, n // block, D]: mean keys of full blocks, in float32, so that a choice does not
    depend on rounding."""

    kv: KV
    means: Buf


@register(
    "moba",
    family="patterns",
    paper="Lu et al. 2025, arXiv:2502.13189, equations 2-6",
    cost="2 Hkv d T elements, and Hkv d T / block in fp32; a query head reads the means and topk blocks",
    tags=("growing", "internal", "exact", "per head", "saves time, not memory"),
)
@dataclass(frozen=True)
class MoBA(Method):
    """MoBA: each query head attends to its own block and to those of highest mean key.

    block: tokens of a block; topk: blocks that a query sees, its own among them.
    """

    block: int = 512
    topk: int = 3

    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block < 1 or self.topk < 1:
            raise ValueError(f"block {self.block} and topk {self.topk} hold the query itself; set both to at least 1")

    def init_state(self, layer: Layer, batch: int) -> MobaState:
        return MobaState(
            KV.empty(layer, batch, exact=False), Buf.empty(batch, layer.hkv, 0, layer.d, device=layer.device)
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        k, v = whole(state.kv, k, v, step)
        n, T = k.shape[2], q.shape[2]
        full = k[:, :, state.means.n * self.block : n // self.block * self.block].detach()
        new = full.unflatten(2, (-1, self.block)).float().mean(3)
        means = torch.cat([state.means.view(), new], 2)
        if step.phase != "score":
            state.means.append(new)
        outputs = []
        for a in range(0, T, QUERIES):
            piece, first = q[:, :, a : a + QUERIES], n - T + a
            chosen = self._choose(piece, means, first, n)
            part = attend_selected(piece, k, v, chosen, first, self.block, layer)
            outputs.append((part if step.sinks is None else add_sink_logits(part, step.sinks))[0])
        return torch.cat(outputs, 2)

    def _choose(self, q: Tensor, means: Tensor, first: int, n: int) -> Tensor:
        """Blocks [B, Hq, T, topk]; where there are fewer before a query, later ones fill up, which it does not see."""
        blocks = -(-n // self.block)
        scores = logits(q.detach(), means, 1.0).flatten(1, 2)
        scores = F.pad(scores, (0, blocks - means.shape[2]))
        own, block = arange(first, first + q.shape[2], q)[:, None] // self.block, arange(0, blocks, q)
        scores = scores.masked_fill(block > own, float("-inf")).masked_fill(block == own, float("inf"))
        return scores.topk(min(self.topk, blocks)).indices

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        """`read` is for heads of a group that choose apart: no more than there are blocks."""
        n = prompt + new
        own = max(0, n - 1) // self.block
        means = buffer_footprint(batch, layer.hkv * layer.d * torch.float32.itemsize, n // self.block, False)
        tokens = min(own, layer.group * (self.topk - 1)) * self.block + n - own * self.block
        held = buffer_footprint(batch, layer.kv_bytes, n, False)
        return replace(held, read=tokens * layer.kv_bytes) + means

    def lossless(self, n: int) -> MoBA:
        return replace(self, topk=n // self.block + 1)
