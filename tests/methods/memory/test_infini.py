"""Infini-attention against its equations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvfrontier.methods import Infini


def test_infini(reference, qkv, chunks: list[int]) -> None:
    """Equations 4-10, segment by segment; local attention with the text's own positions, the memory with none."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    segment, gate = 24, 0.7

    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    def output(h: int, g: int, t: int) -> Tensor:
        start = t // segment * segment
        local = reference.attend(qr[0, h, t], kr[0, g, start : t + 1], v[0, g, start : t + 1])
        if start == 0:
            return local
        weights = phi(k[0, g, :start]) @ phi(q[0, h, t])
        memory = weights @ v[0, g, :start] / weights.sum()
        beta = 1 / (1 + math.exp(-gate))
        return beta * memory + (1 - beta) * local

    torch.testing.assert_close(
        reference.run(Infini(segment, gate), q, k, v, chunks), reference.by_token(output), atol=1e-5, rtol=1e-5
    )
