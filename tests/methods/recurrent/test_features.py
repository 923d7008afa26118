"""Performer and cosFormer against their parallel forms, T x T weights in float64; and Performer's features against
the exponential that they estimate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Step
from kvfrontier.methods.recurrent.cosformer import CosFormer
from kvfrontier.methods.recurrent.performer import Performer, orthogonal


def averaged(reference, weight, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query's average of the values up to its own, by weight(queries [T, D], keys [T, D]) [T, T]."""
    qr, kr = reference.rotate(q).double()[0], reference.rotate(k).double()[0]
    out = torch.zeros(1, reference.HQ, reference.T, reference.D, dtype=torch.float64)
    for h in range(reference.HQ):
        i = h * reference.HKV // reference.HQ
        weights = weight(qr[h], kr[i]).tril()
        out[0, h] = weights @ v[0, i].double() / weights.sum(-1, keepdim=True)
    return out.float()


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_performer(reference, qkv, size: float, chunks: list[int]) -> None:
    """Equation for equation, without a stabiliser, which float64 does not need; also for weights of e^100."""
    q, k, v = qkv
    method = Performer(features=40, seed=3)
    w = method.init_state(reference.layer, 1).w.double()

    def phi(x: Tensor) -> Tensor:
        x = x * math.sqrt(reference.SCALE)
        return torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2)

    expected = averaged(reference, lambda x, y: phi(x) @ phi(y).T, q * size, k * size, v)
    torch.testing.assert_close(
        reference.run(method, q * size, k * size, v, chunks), expected, atol=3e-5 * size**2, rtol=1e-4
    )


def test_random_features_estimate_the_exponential_without_bias() -> None:
    """Over 1,000 seeds the mean of phi(x) phi(y) is exp(x y), within four of its own standard errors."""
    d, m, g = 8, 12, torch.Generator().manual_seed(0)
    x, y = (0.25 * torch.randn(6, d, generator=g, dtype=torch.float64) for _ in range(2))
    estimates = []
    for seed in range(1000):
        w = orthogonal(m, d, seed).double()
        fx, fy = (torch.exp(z @ w.T - z.square().sum(-1, keepdim=True) / 2) / math.sqrt(m) for z in (x, y))
        estimates.append((fx * fy).sum(-1))
    found = torch.stack(estimates)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - (x * y).sum(-1).exp()).abs() < 4 * error).all()
    assert (error < 0.04).all(), "so large an error would prove nothing"


def test_features_are_orthogonal_within_a_block_of_d_rows() -> None:
    w = torch.nn.functional.normalize(orthogonal(20, 16, 0), dim=-1)
    torch.testing.assert_close(w[:16] @ w[:16].T, torch.eye(16), atol=1e-5, rtol=0)
    assert orthogonal(5, 16, 0).shape == (5, 16)


def test_more_features_come_nearer_to_softmax(reference, qkv) -> None:
    """Four times as many, half the error; over eight seeds, on logits around one."""
    q, k, v = qkv
    dense = reference.run(Dense(), q / 2, k / 2, v, [reference.T])

    def error(features: int) -> Tensor:
        found = [reference.run(Performer(features, seed), q / 2, k / 2, v, [reference.T]) for seed in range(8)]
        return (torch.stack(found) - dense).square().mean().sqrt()

    few, many = error(64), error(1024)
    assert 3 < few / many < 5.5


def test_cosformer(reference, qkv, chunks: list[int]) -> None:
    """relu(q) relu(k) cos(pi (t - s) / 2M)."""
    q, k, v = qkv
    t = torch.arange(reference.T, dtype=torch.float64)
    fall = torch.cos(math.pi / 2 * (t[:, None] - t) / 100)
    expected = averaged(reference, lambda x, y: (x.clamp(min=0) @ y.clamp(min=0).T) * fall, q, k, v)
    torch.testing.assert_close(reference.run(CosFormer(length=100), q, k, v, chunks), expected, atol=1e-5, rtol=1e-4)


def test_cosformer_refuses_a_text_longer_than_its_cosine(reference, qkv) -> None:
    with pytest.raises(ValueError, match=r"90 tokens.*raise method\.length"):
        reference.run(CosFormer(length=89), *qkv, [70, 20])


def test_a_query_without_a_common_feature_gets_nothing_and_no_wild_gradient(reference) -> None:
    q, k = -torch.ones(1, 4, 90, 16, requires_grad=True), torch.ones(1, 2, 90, 16)
    q.retain_grad()
    layer = replace(reference.layer, rope=None)
    method, step = CosFormer(), Step(torch.arange(90)[None], 0)
    out = method.attend(q, k, torch.ones_like(k), method.init_state(layer, 1), layer, step)
    out.sum().backward()
    assert out.abs().max() == 0
    assert q.grad is not None and q.grad.isfinite().all()
