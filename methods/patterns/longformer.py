"""Longformer (Beltagy et al. 2020, arXiv:2004.05150, section 3.1), causal: a dilated window and a few global tokens.

    query t sees s <= t   where s < global_tokens, or t - s in {0, d, 2 d, ... (window - 1) d}

Queries and keys of one residue modulo the dilation d form a text of their own, in which the window has no gaps; so d
plain windows are computed, and nothing between. The state is what some later query may see: the global tokens, and the
last (window - 1) d + 1. The paper's global tokens have projections of their own; here they have the model's. It
dilates two heads of the higher layers and widens the window with depth; here all heads of all layers are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part, add_sink_logits, choose, merge, needs_grad
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import State
from kvfrontier.methods.stores.dense import KV


@dataclass
class LongformerState(State):
    """kv: the global tokens and behind them the newest stretch; seen: tokens so far."""

    kv: KV
    seen: int = 0


@register(
    "longformer",
    family="patterns",
    paper="Beltagy et al. 2020, arXiv:2004.05150, section 3.1",
    cost="2 Hkv d min(T, g + (w - 1) dilation + 1) elements, of which a query reads g + w",
    tags=("fixed", "internal", "lossy", "per layer"),
)
@dataclass(frozen=True)
class Longformer(Method):
    """Longformer: a window of every `dilation`-th token, and the first tokens seen by all.

    window: keys of the window, the query's own among them (256: one side of the paper's 512); dilation: tokens from one
    to the next (1: no gaps); global_tokens: first tokens of the text that every later query sees.
    """

    window: int = 256
    dilation: int = 1
    global_tokens: int = 1

    bounded: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    knob: ClassVar[str | None] = "window"

    def __post_init__(self) -> None:
        if self.window < 1 or self.dilation < 1:
            raise ValueError(f"window {self.window} and dilation {self.dilation} count tokens; set both to at least 1")
        if self.global_tokens < 0:
            raise ValueError(f"global_tokens {self.global_tokens} is a number of tokens; set it to at least 0")

    def reach(self, trained: float) -> float:
        return math.inf if self.global_tokens == 0 and self._span <= trained else trained

    @property
    def _span(self) -> int:
        """Tokens from the furthest that a window sees to the query, both included."""
        return (self.window - 1) * self.dilation + 1

    def init_state(self, layer: Layer, batch: int) -> LongformerState:
        return LongformerState(KV.empty(layer, batch, exact=True))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        g, kv = self.global_tokens, state.kv
        k, v = torch.cat([kv.k.view(), k], 2), torch.cat([kv.v.view(), v], 2)
        attend = choose("auto", layer, needs_grad(q, k, v))
        # Global tokens see one another as usual.
        first, outputs = min(q.shape[2], max(0, g - state.seen)), []
        if first:
            end = state.seen + first
            outputs.append(_attend(attend, q[:, :, :first], k[:, :, :end], v[:, :, :end], layer, causal=True))
        if first < q.shape[2]:
            parts = [self._dilated(attend, q[:, :, first:], k[:, :, g:], v[:, :, g:], layer)]
            if g:
                parts.append(_attend(attend, q[:, :, first:], k[:, :, :g], v[:, :, :g], layer, causal=False))
            outputs.append(merge(parts))
        if step.phase != "score":
            keep = max(g, k.shape[2] - self._span)
            for buf, x in ((kv.k, k), (kv.v, v)):
                buf.set(x if keep == g else torch.cat([x[:, :, :g], x[:, :, keep:]], 2))
            state.seen += q.shape[2]
        if step.sinks is not None:
            outputs = [add_sink_logits(part, step.sinks) for part in outputs]
        return torch.cat([o for o, _ in outputs], 2)

    def _dilated(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Part:
        d, T = self.dilation, q.shape[2]
        o, lse = q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)
        for r in range(min(d, T)):
            # The last query of this residue, and the keys of its residue up to its own.
            end = k.shape[2] - T + r + (T - 1 - r) // d * d
            same = slice(end % d, end + 1, d)
            o[:, :, r::d], lse[:, :, r::d] = _attend(
                attend, q[:, :, r::d], k[:, :, same], v[:, :, same], layer, causal=True, window=self.window
            )
        return o, lse

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        n, g = prompt + new, self.global_tokens
        read = min(n, g) + min(self.window, -(-max(0, n - g) // self.dilation))
        return Footprint.of(batch * min(n, g + self._span) * layer.kv_bytes, read=read * layer.kv_bytes)

    def lossless(self, n: int) -> Longformer:
        return replace(self, window=n, dilation=1)


def _attend(attend: Attend, q: Tensor, k: Tensor, v: Tensor, layer: Layer, **span: Any) -> Part:
    return attend(q, k, v, scale=layer.scale, softcap=layer.softcap, **span)
