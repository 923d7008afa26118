"""Native sparse attention (Yuan et al. 2025, arXiv:2502.11089, equations 5 to 12): three attentions over one cache.

    compressed   over block means: block c pools tokens [c stride, c stride + compress), once they are all there
    selected     over `topk` blocks of `block` tokens up to t: the first, t's own and the one before it, and those with
                 the highest weight p in the compressed attention, summed over what overlaps (equation 9 as printed
                 names blocks that lie earlier) and the heads of a group
    window       over the last `window` tokens

    o_t = g_c o_compressed + g_s o_selected + g_w o_window

Pooling and gates are learned: a mean plus an MLP of the block and its positions, and sigmoids of the query (the paper's
are of the hidden state, which attention does not see). Without parameters, and before training, pooling is the mean and
each gate a third. The paper gives each branch keys and values of its own; here they share the layer's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend import Part, add_sink_logits, choose, needs_grad
from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import weigh, whole
from kvfrontier.methods.patterns.nsa_parameters import NsaParameters, Pooling
from kvfrontier.methods.patterns.selected import attend_selected
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import State
from kvfrontier.methods.stores.dense import KV, buffer_footprint

#: Queries whose choices are computed at once.
QUERIES = 1024
#: First blocks, and blocks that end with the query's own, that are always selected.
FIRST, LOCAL = 1, 2


@dataclass
class NsaState(State):
    """kv: everything; pooled: the compressed keys and values."""

    kv: KV
    pooled: KV


@register(
    "nsa",
    family="patterns",
    paper="Yuan et al. 2025, arXiv:2502.11089, equations 5-12",
    cost="2 Hkv d (T + T / stride) elements; a token reads the pooled ones, topk blocks and a window",
    tags=("growing", "internal", "exact", "per head", "saves time, not memory"),
)
@dataclass(frozen=True)
class NSA(Method):
    """Native sparse attention: pooled blocks, selected blocks and a window, gated.

    compress, stride: tokens of a pooled block, and from one to the next; block, topk: tokens of a selected block, and
    how many are selected; window in tokens.
    """

    compress: int = 32
    stride: int = 16
    block: int = 64
    topk: int = 16
    window: int = 512

    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.stride, self.window) < 1 or self.compress % self.stride or self.block % self.stride:
            raise ValueError(
                f"compress {self.compress} and block {self.block} must be multiples of stride {self.stride}, and "
                "window at least 1; set method.compress, method.block, method.stride and method.window so"
            )
        if self.topk < FIRST + LOCAL:
            raise ValueError(
                f"topk {self.topk} leaves no place for the first block and the last {LOCAL}; set method.topk to at "
                f"least {FIRST + LOCAL}"
            )

    def module(self, layer: Layer) -> NsaParameters:
        return NsaParameters(layer, self.compress)

    def init_state(self, layer: Layer, batch: int) -> NsaState:
        return NsaState(KV.empty(layer, batch, exact=False), KV.empty(layer, batch, exact=False))

    def _pooled(self, n: int) -> int:
        """Pooled blocks that n tokens fill."""
        return max(0, n - self.compress + self.stride) // self.stride

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        k, v = whole(state.kv, k, v, step)
        n, T = k.shape[2], q.shape[2]
        params, done = layer.params, state.pooled.k.n
        assert params is None or isinstance(params, NsaParameters)
        new_k = self._pool(k, done, n, None if params is None else params.keys)
        new_v = self._pool(v, done, n, None if params is None else params.values)
        pooled = whole(state.pooled, new_k, new_v, step)
        gates = q.new_full((*q.shape[:3], 3), 1 / 3) if params is None else params.gates(q)

        tail = max(0, n - T - self.window + 1)
        dense = choose("auto", layer, needs_grad(q, k, v))
        window = dense(
            q, k[:, :, tail:], v[:, :, tail:], scale=layer.scale, softcap=layer.softcap, causal=True, window=self.window
        )
        outputs = []
        for a in range(0, T, QUERIES):
            piece, first = q[:, :, a : a + QUERIES], n - T + a
            compressed, chosen = self._compressed(piece, *pooled, first, n, layer)
            selected = attend_selected(piece, k, v, chosen, first, self.block, layer)
            near = window[0][:, :, a : a + QUERIES], window[1][:, :, a : a + QUERIES]
            parts = [
                part if step.sinks is None else add_sink_logits(part, step.sinks)
                for part in (compressed, selected, near)
            ]
            branches = torch.stack([o.float() for o, _ in parts], -1)
            outputs.append((branches * gates[:, :, a : a + QUERIES].unsqueeze(3)).sum(-1))
        return torch.cat(outputs, 2).to(q.dtype)

    def _pool(self, x: Tensor, done: int, n: int, pool: Pooling | None) -> Tensor:
        """The blocks [B, Hkv, new, D] that n tokens fill, behind those done."""
        total = self._pooled(n)
        if total == done:
            return x[:, :, :0]
        tokens = x[:, :, done * self.stride : (total - 1) * self.stride + self.compress]
        blocks = tokens.unfold(2, self.compress, self.stride).transpose(3, 4).float()
        return (blocks.mean(3) if pool is None else pool(blocks)).to(x.dtype)

    def _compressed(self, q: Tensor, k: Tensor, v: Tensor, first: int, n: int, layer: Layer) -> tuple[Part, Tensor]:
        """Attention over pooled blocks, and the blocks [B, Hkv, T, topk] that it selects."""
        T = q.shape[2]
        t = arange(first, first + T, q)
        count, blocks = self._pooled(first + T), -(-n // self.block)
        if count:
            seen = arange(0, count, q) * self.stride + self.compress - 1 <= t[:, None]
            weights, lse = weigh(q, k[:, :, :count], seen, layer)
            weights = weights * seen.any(-1, keepdim=True)
            o = torch.einsum("bhgts,bhsd->bhgtd", weights, v[:, :, :count].float())
            part = o.flatten(1, 2), lse.flatten(1, 2)
            importance = weights.detach().sum(2)
        else:
            lowest = torch.finfo(torch.float32).min
            part = q.new_zeros(*q.shape[:3], v.shape[3]), q.new_full(q.shape[:3], lowest, dtype=torch.float32)
            importance = q.new_zeros(q.shape[0], k.shape[1], T, 0, dtype=torch.float32)
        # A pooled block covers compress / stride stretches of `stride` tokens, a selected one consists of some.
        per_block = self.block // self.stride
        stretches = sum(
            F.pad(importance, (i, blocks * per_block - count - i)) for i in range(self.compress // self.stride)
        )
        assert isinstance(stretches, Tensor)
        scores = stretches.unflatten(3, (blocks, per_block)).sum(4)
        own, block = t[:, None] // self.block, arange(0, blocks, q)
        always = (block < FIRST) | (block > own - LOCAL)
        scores = scores.masked_fill(always, float("inf")).masked_fill(block > own, float("-inf"))
        # A stable order: weights that underflow tie, and must fall the same however the text was cut.
        return part, scores.sort(dim=-1, descending=True, stable=True).indices[..., : self.topk]

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        """`read` is each branch's own: what both the window and a selected block hold is read twice."""
        n = prompt + new
        own = max(0, n - 1) // self.block
        selected = min(own, self.topk - 1) * self.block + n - own * self.block
        held = buffer_footprint(batch, layer.kv_bytes, n, False)
        read = (selected + min(n, self.window)) * layer.kv_bytes
        return replace(held, read=read) + buffer_footprint(batch, layer.kv_bytes, self._pooled(n), False)
