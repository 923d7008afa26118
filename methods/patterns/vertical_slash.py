"""MInference's vertical-slash pattern (Jiang et al. 2024, arXiv:2407.02490, section 3.2 and algorithm 2): a prefill
that computes only part of attention. In long prompts a head looks at a few columns (tokens that all later ones look at)
and a few diagonals (fixed distances). Both are estimated from the call's last queries:

    A = softmax(Q[-last:] K^T scale)
    columns = top_k over s of sum_t A[t, s]             the first `sinks` always
    slashes = top_k over d of sum_t A[t, t - d]         distances below `recent` always
    query t sees s <= t   where s is in columns, or t - s in slashes

It saves the time of the prefill and what it reads; the state is everything, and decoding is dense. The official kernel
computes a square of `block` x `block` around every slash. Here slashes are chosen as bands of `block` neighbouring
distances at once, so that the amount of work is fixed before it begins, and only the band itself is seen; block=1
chooses single slashes, as the paper writes it. The official search gives some heads other patterns; here all have this.

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

#: Queries that share one gathered set of keys.
TILE = 64


@register(
    "vertical_slash",
    family="patterns",
    paper="Jiang et al. 2024, arXiv:2407.02490, algorithm 2",
    cost="2 Hkv d T elements: nothing is saved in the state; a prefill computes T (verticals + slashes) of T^2 / 2",
    tags=("growing", "internal", "exact", "per head"),
)
@dataclass(frozen=True)
class VerticalSlash(Method):
    """MInference: prefill attends to estimated columns and diagonals only; the cache stays whole.

    verticals, slashes: columns and diagonals of each query head; last: queries that estimate them; sinks, recent: first
    columns and shortest distances, always among them; block: neighbouring diagonals that are chosen together.
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
        if self.slashes < max(1, self.recent):
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
            part = self._sparse(q, keys, values, layer)
        return (part if step.sinks is None else add_sink_logits(part, step.sinks))[0]

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Part:
        columns, bands = self._estimate(q, k, layer)
        n, T = k.shape[2], q.shape[2]
        chosen = torch.zeros(*bands.shape[:2], -(-n // self.block), dtype=torch.bool, device=q.device)
        chosen = chosen.scatter(-1, bands, True)
        outputs, sums = [], []
        for a in range(0, T, TILE):
            b = min(T, a + TILE)
            t = arange(n - T + a, n - T + b, q)[:, None]
            # A band's keys for these queries are one stretch, from the first's furthest to the last's nearest.
            near = (n - T + b - bands * self.block).unsqueeze(-1)
            s = (near + arange(1 - self.block - (b - a), 0, q)).flatten(2)
            distance = t - s.unsqueeze(2)
            band = bands.repeat_interleave(b - a + self.block - 1, -1).unsqueeze(2)
            in_band = (s.unsqueeze(2) >= 0) & (distance >= 0) & (distance // self.block == band)
            # A column is seen where no chosen band has it already.
            past = (t - columns.unsqueeze(2)).flatten(2)
            banded = chosen.gather(-1, (past // self.block).clamp(min=0))
            in_column = ((past >= 0) & ~banded).unflatten(2, (b - a, -1))
            index = torch.cat([s.clamp(min=0), columns], 2)
            seen = torch.cat([in_band, in_column], 3).unsqueeze(2)
            keys, values = gather_for_heads(k, index), gather_for_heads(v, index)
            o, lse = attend_gathered(q[:, :, a:b], keys, values, seen, layer)
            outputs.append(o)
            sums.append(lse)
        return torch.cat(outputs, 2), torch.cat(sums, 2)

    def _estimate(self, q: Tensor, k: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """Columns [B, Hq, verticals] and bands of diagonals [B, Hq, slashes / block] that the last queries look at."""
        last, n = q[:, :, -self.last :].detach(), k.shape[2]
        w = last.shape[2]
        x = logits(last, k.detach(), layer.scale, layer.softcap).flatten(1, 2)
        weights = x.masked_fill(arange(0, n, q) > arange(n - w, n, q)[:, None], float("-inf")).softmax(-1)
        columns = weights.sum(2)
        columns[..., : self.sinks] = float("inf")
        # Queries and keys backwards: row r then stands r before the end, and its distance d in column d + r. Rows one
        # longer than they are shift each by one more.
        backwards = F.pad(weights.flip(2, 3), (0, w)).flatten(2)
        diagonals = F.pad(backwards, (0, w)).unflatten(2, (w, -1))[..., :n].sum(2)
        bands = F.pad(diagonals, (0, -n % self.block)).unflatten(2, (-1, self.block)).sum(3)
        bands[..., : -(-self.recent // self.block)] = float("inf")
        count = min(-(-self.slashes // self.block), bands.shape[2])
        return columns.topk(self.verticals).indices, bands.topk(count).indices

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return buffer_footprint(batch, layer.kv_bytes, prompt + new, False)

    def lossless(self, n: int) -> VerticalSlash:
        return replace(self, verticals=max(n, self.sinks))
