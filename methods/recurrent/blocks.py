"""Texts in blocks: inside a block all tokens at once, from block to block a state of constant size."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Tokens of a block.
BLOCK = 32
#: Tokens of a part of a block, within which decays that differ by channel are compared token by token.
PART = 8
#: Tokens whose blocks are computed side by side; it bounds the workspace.
SPAN = 1024
#: The least log-decay of one token. e^-30 is nothing beside float32's 24 bits, and sums of larger numbers would lose
#: the differences that matter.
LEAST = -30.0

Span = Callable[..., tuple[Tensor, Tensor]]


def length(T: int) -> int:
    """Tokens of a block for a call of T tokens: a multiple of PART, or all of fewer."""
    return T if T <= PART else min(BLOCK, -(-T // PART) * PART)


def split(x: Tensor, c: int) -> Tensor:
    """[..., T, F] to [..., N, c, F], padded with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[-2] % c)).unflatten(-2, (-1, c))


def split_queries(q: Tensor, c: int) -> Tensor:
    """Queries [B, H, G, T, F] to [B, H, N, G, c, F]."""
    return split(q, c).transpose(2, 3)


def join_queries(out: Tensor, T: int) -> Tensor:
    """[B, H, N, G, c, V] to [B, H, G, T, V]; the padding goes."""
    return out.transpose(2, 3).flatten(3, 4)[:, :, :, :T]


def falloff(G: Tensor) -> Tensor:
    """exp(G_t - G_s) for s <= t and 0 beyond, [..., c, c, F] from sums of log-decays G [..., c, F]. No exponent is
    positive, so that nothing overflows."""
    difference = G.unsqueeze(-2) - G.unsqueeze(-3)
    c = G.shape[-2]
    later = torch.ones(c, c, dtype=torch.bool, device=G.device).triu(1).unsqueeze(-1)
    return difference.masked_fill(later, float("-inf")).exp()


def in_spans(span: Span, tensors: tuple[Tensor, ...], S: Tensor) -> tuple[Tensor, Tensor]:
    """`span(*tensors, S) -> (out, S)` over stretches of SPAN tokens; tokens are the last dimension but one."""
    T, outputs = tensors[0].shape[-2], []
    for a in range(0, T, SPAN):
        out, S = span(*(x[..., a : a + SPAN, :] for x in tensors), S)
        outputs.append(out)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -2), S
