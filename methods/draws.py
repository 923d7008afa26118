"""Numbers drawn at random for slots of a cache, as functions of their place alone, so that chunks, the rows of a batch
and forks draw the same."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.axes import arange
from kvfrontier.methods.layer import Layer

#: Numbers are below this.
RANGE = 1 << 32


def scramble(x: Tensor) -> Tensor:
    """A permutation of the integers below 2^32 without visible order (int64 in and out): each bit of the input changes
    half of the output's. The multiplier is below 2^31, so that no product overflows."""
    for _ in range(3):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & (RANGE - 1)
    return x ^ (x >> 16)


def draw(begin: int, end: int, like: Tensor, layer: Layer, seed: int) -> Tensor:
    """Integers below 2^32 [H, end - begin] of the tokens numbered `begin` to `end` in each head of like [B, H, n, D];
    another seed, layer or head has others."""
    x = scramble(torch.tensor(seed & (RANGE - 1), device=like.device))
    x = scramble(scramble(x ^ layer.index) ^ arange(0, like.shape[1], like)).unsqueeze(-1)
    return scramble(x ^ arange(begin, end, like))
