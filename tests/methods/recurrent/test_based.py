"""Based against its formula, token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Window
from kvfrontier.methods.recurrent.based import Based, cosines, taylor


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("window", [0, 1, 20, 200])
def test_based(reference, qkv, window: int, trained: bool, learned, chunks: list[int]) -> None:
    """exp(scale q k) for the last `window` keys and 1 + x y + (x y)^2 / 2 for the others, over their common sum."""
    q, k, v = qkv
    n, d = 6, reference.D
    method, layer = Based(window, n), reference.layer
    channel = torch.arange(d, dtype=torch.float64) + 0.5
    P = torch.stack([torch.cos(math.pi * j * channel / d) * math.sqrt((1 if j == 0 else 2) / d) for j in range(n)], 1)
    Pq, Pk = [P] * reference.HQ, [P] * reference.HKV
    if trained:
        layer, p = learned(method)
        Pq, Pk = list(p["q.weight"]), list(p["k.weight"])
    qr, kr, values = reference.rotate(q).double(), reference.rotate(k).double(), v.double()

    def output(h: int, g: int, t: int) -> Tensor:
        near = max(0, t + 1 - window)
        exact = (kr[0, g, near : t + 1] @ qr[0, h, t] * reference.SCALE).exp()
        xy = (kr[0, g, :near] @ Pk[g]) @ (qr[0, h, t] @ Pq[h]) / math.sqrt(n)
        weights = torch.cat([1 + xy + xy.square() / 2, exact])
        return (weights @ values[0, g, : t + 1] / weights.sum()).float()

    found = reference.run(method, q, k, v, chunks, layer)
    torch.testing.assert_close(found, reference.by_token(output), atol=1e-5, rtol=1e-4)


def test_based_is_a_window_until_the_window_is_full(reference, qkv) -> None:
    q, k, v = qkv
    torch.testing.assert_close(
        reference.run(Based(24), q, k, v, [24]), reference.run(Window(24), q, k, v, [24]), atol=1e-6, rtol=1e-5
    )


def test_the_features_are_the_series_of_the_exponential() -> None:
    x, y = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0)).double()
    xy = (x * y).sum(-1) / 4
    torch.testing.assert_close((taylor(x) * taylor(y)).sum(-1), 1 + xy + xy.square() / 2)
    assert taylor(x).shape[-1] == 273


def test_the_fixed_projection_is_orthogonal() -> None:
    P = cosines(64, 16, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(P.T @ P, torch.eye(16, dtype=torch.float64))
