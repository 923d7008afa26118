"""BigBird (Zaheer et al. 2020, arXiv:2007.14062, section 2), causal, in blocks of tokens. A query of block i
sees, up to itself,

    the global blocks      0 .. global_blocks - 1
    the window             i - window_blocks + 1 .. i
    random blocks          random_blocks of those between, another choice for each query block, layer and key/value head

The choice is a hash of the seed, the layer, the head and i, so that it is the same however the text is cut, and for a
text of any length. A later block may ask for any earlier one: the state is everything, and only what a token reads is
bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import add_sink_logits
from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import attend_gathered, gather_for_heads, whole
from kvfrontier.methods.registry import register
from kvfrontier.methods.stores.dense import KV, buffer_footprint

Number = TypeVar("Number", int, Tensor)


@register(
    "bigbird",
    family="patterns",
    paper="Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D",
    cost="2 Hkv d T elements, since a random block may be any; a query reads (g + w + r) blocks",
    tags=("growing", "internal", "exact", "per head", "saves time, not memory"),
)
@dataclass(frozen=True)
class BigBird(Method):
    """BigBird: global blocks, a window of blocks, and random blocks.

    block: tokens of a block; global_blocks, window_blocks (the query's own among them), random_blocks: blocks that a
    query sees; seed: of the random ones.
    """

    block: int = 64
    global_blocks: int = 2
    window_blocks: int = 3
    random_blocks: int = 3
    seed: int = 0

    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block < 1 or self.window_blocks < 1:
            raise ValueError(
                f"block {self.block} and window_blocks {self.window_blocks} hold the query itself; set both to at "
                "least 1"
            )
        if self.global_blocks < 0 or self.random_blocks < 0:
            raise ValueError(
                f"global_blocks {self.global_blocks} and random_blocks {self.random_blocks} are numbers of blocks; set "
                "both to at least 0"
            )

    def init_state(self, layer: Layer, batch: int) -> KV:
        return KV.empty(layer, batch, exact=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        k, v = whole(state, k, v, step)
        n, outputs = k.shape[2], []
        first = a = n - q.shape[2]
        while a < n:
            b = min(n, (a // self.block + 1) * self.block)
            slots = self._slots(a // self.block, b, layer, q).expand(q.shape[0], -1, -1)
            seen = slots[:, :, None, None] <= arange(a, b, q)[:, None]
            piece, sinks = q[:, :, a - first : b - first], step.sinks is not None
            part = attend_gathered(
                piece, gather_for_heads(k, slots), gather_for_heads(v, slots), seen, layer, lse=sinks
            )
            outputs.append((part if step.sinks is None else add_sink_logits(part, step.sinks))[0])
            a = b
        return torch.cat(outputs, 2)

    def _slots(self, i: int, end: int, layer: Layer, like: Tensor) -> Tensor:
        """Tokens before `end` [Hkv, n] that block i sees."""
        window = max(0, i - self.window_blocks + 1)
        front = arange(0, min(self.global_blocks, window) * self.block, like)
        near = arange(window * self.block, end, like)
        far = self.drawn(i, layer, like)[:, :, None] * self.block + arange(0, self.block, like)
        return torch.cat([front.expand(layer.hkv, -1), far.flatten(1), near.expand(layer.hkv, -1)], 1)

    def drawn(self, i: int, layer: Layer, like: Tensor) -> Tensor:
        """Random blocks [Hkv, r] of query block i, each once: those with the highest hash."""
        begin = self.global_blocks
        end = max(begin, i - self.window_blocks + 1)
        heads = _hash(arange(0, layer.hkv, like) + _hash(i + _hash(layer.index + _hash(self.seed))))
        priority = _hash(heads[:, None] + arange(begin, end, like))
        return begin + priority.topk(min(self.random_blocks, end - begin)).indices

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        n = prompt + new
        window = max(0, (n - 1) // self.block - self.window_blocks + 1)
        far = min(self.global_blocks + self.random_blocks, window)
        held = buffer_footprint(batch, layer.kv_bytes, n, False)
        return replace(held, read=(far * self.block + n - window * self.block) * layer.kv_bytes)

    def lossless(self, n: int) -> BigBird:
        return replace(self, window_blocks=n // self.block + 1)


def _hash(x: Number) -> Number:
    """One of 2^32 numbers for each number, by multiplications and shifts; distinct for distinct ones below 2^32."""
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return (x >> 16) ^ x
