"""MInference's vertical-slash pattern (Jiang et al. 2024, arXiv:2407.02490, section 3.2 and algorithm 2): a prefill
that computes only part of attention. In long prompts a head looks at a few columns (tokens that all later ones look at)
and a few diagonals (fixed distances). Both are estimated from the call's last queries:

    A = softmax(Q[-last:] K^T scale)
    columns = top_k over s of sum_t A[t, s]                                       and the first `sinks`
    bands   = top_k over j of sum of A[t, s] where t // block - s // block = j    and those of distances below `recent`
    query t sees s <= t   where s is in columns, or t // block - s // block in bands

It saves the time of the prefill and what it reads; the state is everything, and decoding is dense. The official kernel
chooses single slashes (block=1 here) and computes a square of `block` x `block` tokens around each; here the diagonals
of such squares are chosen, so that the amount of work is fixed before it begins. The official search gives some heads
other patterns; here all have this.

Every call estimates anew from its own last queries, so outputs depend on how a prompt was cut: within one call they are
one pattern, and the keys and values of a layer are those of its inputs whatever the cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend import Part, add_sink_logits, choose, needs_grad
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import attend_gathered, gather_for_heads, whole
from kvfrontier.methods.registry import register
from kvfrontier.methods.stores.dense import KV, buffer_footprint


@register(
    "vertical_slash",
    family="patterns",
    paper="Jiang et al. 2024, arXiv:2407.02490, algorithm 2",
    cost="2 Hkv d T elements: nothing is saved in the state; a prefill computes T (verticals + slashes) of T^2 / 2",
    tags=("growing", "internal", "exact", "per head", "saves time, not memory"),
)
@dataclass(frozen=True)
class VerticalSlash(Method):
    """MInference: prefill attends to estimated columns and diagonals only; the cache stays whole.

    verticals, slashes: columns and diagonals of each query head; last: queries that estimate them; sinks, recent: first
    columns and shortest distances, always among them; block: tokens of the squares along a diagonal.
    """

    verticals: int = 1000
    slashes: int = 6096
    last: int = 64
    sinks: int = 30
    recent: int = 100
    block: int = 64

    chunk_invariant: ClassVar[bool] = False
    decode_equals_prefill: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.last < 1 or self.block < 1:
            raise ValueError(
                f"last {self.last} and block {self.block} count queries and diagonals; set both to at least 1"
            )
        if self.verticals < max(1, self.sinks):
            raise ValueError(
                f"verticals {self.verticals} leave no place for {self.sinks} sinks; raise method.verticals or lower "
                "method.sinks"
            )
        if self.recent < 1:
            raise ValueError(f"recent {self.recent} leaves a query without itself; set method.recent to at least 1")
        if self.slashes < self.recent:
            raise ValueError(
                f"slashes {self.slashes} leave no place for {self.recent} recent diagonals; raise method.slashes or "
                "lower method.recent"
            )

    def init_state(self, layer: Layer, batch: int) -> KV:
        return KV.empty(layer, batch, exact=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        keys, values = whole(state, k, v, step)
        if step.phase != "prefill" or max(self.verticals, self.slashes) >= keys.shape[2]:
            dense = choose("auto", layer, needs_grad(q, keys, values))
            part = dense(
                q, keys, values, scale=layer.scale, softcap=layer.softcap, causal=True, lse=step.sinks is not None
            )
        else:
            part = self._sparse(q, keys, values, layer, lse=step.sinks is not None)
        return (part if step.sinks is None else add_sink_logits(part, step.sinks))[0]

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer, lse: bool) -> Part:
        columns, bands = self._estimate(q, k, layer)
        n, size, outputs = k.shape[2], self.block, []
        chosen = torch.zeros(*bands.shape[:2], -(-n // size), dtype=torch.bool, device=q.device)
        chosen = chosen.scatter(-1, bands, True)
        first = a = n - q.shape[2]
        while a < n:
            i = a // size
            b = min(n, (i + 1) * size)
            far = (i - bands).unsqueeze(-1) * size + arange(0, size, q)
            own = arange(i * size, b, q)
            # A column is seen where no chosen band has it already. Of what is before its own block a query sees all
            # or nothing.
            banded = chosen.gather(-1, (i - columns // size).clamp(min=0))
            before = torch.cat([(far >= 0).flatten(2), (columns < i * size) & ~banded], 2)
            seen = torch.cat(
                [
                    before[:, :, None, None].expand(-1, -1, -1, b - a, -1),
                    (own <= arange(a, b, q)[:, None]).expand(*before.shape[:2], 1, -1, -1),
                ],
                4,
            )
            slots = torch.cat([far.clamp(min=0).flatten(2), columns, own.expand(*before.shape[:2], -1)], 2)
            keys, values = gather_for_heads(k, slots), gather_for_heads(v, slots)
            outputs.append(attend_gathered(q[:, :, a - first : b - first], keys, values, seen, layer, lse))
            a = b
        return torch.cat([o for o, _ in outputs], 2), torch.cat([total for _, total in outputs], 2)

    def _estimate(self, q: Tensor, k: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """Columns [B, Hq, verticals], and bands [B, Hq, slashes / block - 1] beside band 0, which all see."""
        last, n, size = q[:, :, -self.last :].detach(), k.shape[2], self.block
        t = arange(n - last.shape[2], n, q)[:, None]
        x = logits(last, k.detach(), layer.scale, layer.softcap).flatten(1, 2)
        weights = x.masked_fill(arange(0, n, q) > t, float("-inf")).softmax(-1)
        columns = weights.sum(2)
        columns[..., : self.sinks] = float("inf")
        blocks = F.pad(weights, (0, -n % size)).unflatten(3, (-1, size)).sum(4)
        block = t // size - arange(0, blocks.shape[3], q)
        mass = blocks.gather(3, block.clamp(min=0).expand_as(blocks)).masked_fill(block < 0, 0.0).sum(2)
        count = min(-(-self.slashes // size), mass.shape[2])
        mass[..., : min(count, -(-(self.recent - 1) // size) + 1)] = float("inf")
        return columns.topk(self.verticals).indices, mass[..., 1:].topk(count - 1).indices + 1

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return buffer_footprint(batch, layer.kv_bytes, prompt + new, False)

    def lossless(self, n: int) -> VerticalSlash:
        return replace(self, verticals=max(n, self.sinks))
