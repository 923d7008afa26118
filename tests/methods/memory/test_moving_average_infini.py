"""Moving average and Infini-attention against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Infini, MovingAverage


@pytest.mark.parametrize("mass", ["one", "count"])
@pytest.mark.parametrize("window", [0, 1, 24])
def test_moving_average(reference, qkv, window: int, mass: str, chunks: list[int]) -> None:
    """Mem_i = ((k_i, v_i) + i Mem_{i-1}) / (i + 1), token by token."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        mem_k = mem_v = torch.zeros(reference.D)
        n = max(0, t + 1 - window)
        for i in range(n):
            mem_k, mem_v = (kr[0, g, i] + i * mem_k) / (i + 1), (v[0, g, i] + i * mem_v) / (i + 1)
        keys, values = [kr[0, g, n : t + 1]], [v[0, g, n : t + 1]]
        logits = torch.cat([*keys, *([mem_k[None]] if n else [])]) @ qr[0, h, t] * reference.SCALE
        if n and mass == "count":
            logits[-1] += math.log(n)
        return logits.softmax(0) @ torch.cat([*values, *([mem_v[None]] if n else [])])

    got = reference.run(MovingAverage(window, mass), q, k, v, chunks)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_one_averaged_slot_alone_does_not_depend_on_the_query(reference, qkv) -> None:
    q, k, v = qkv
    method = MovingAverage(window=0)
    assert torch.equal(
        reference.run(method, q, k, v, [reference.T]), reference.run(method, torch.randn_like(q), k, v, [reference.T])
    )


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
