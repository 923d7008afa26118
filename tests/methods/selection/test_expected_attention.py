"""Expected attention against its formula, position by position and key by key."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.selection.expected_attention import ExpectedAttention, expected_logits


def scores_of(reference, q: Tensor, k: Tensor, v: Tensor, g: int, future: int, sinks: int, epsilon: float) -> Tensor:
    """[PROMPT] scores of key/value head g in float64; q and k before RoPE."""
    n, group = reference.PROMPT, reference.HQ // reference.HKV
    keys = reference.rotate(k)[0, g, :n].double()
    turn = torch.zeros(reference.D, reference.D, dtype=torch.float64)
    for p in range(n, n + future):
        for d in range(reference.D):
            axis = torch.zeros(1, 1, 1, reference.D, dtype=torch.float64)
            axis[..., d] = 1
            turn[:, d] += reference.rope.apply(axis, torch.tensor([[p]]))[0, 0, 0] / future
    weights = torch.zeros(n - sinks, dtype=torch.float64)
    for h in range(g * group, (g + 1) * group):
        queries = q[0, h, sinks:n].double()
        mean = queries.mean(0)
        covariance = sum(torch.outer(x - mean, x - mean) for x in queries) / len(queries)
        z = []
        for key in keys[sinks:]:
            turned = turn.T @ key
            z.append(turned @ mean * reference.SCALE + turned @ covariance @ turned * reference.SCALE**2 / 2)
        weights += torch.stack(z).softmax(0) / group
    norms = torch.stack([x.norm() for x in v[0, g, sinks:n].double()])
    return torch.cat([torch.full((sinks,), torch.inf, dtype=torch.float64), (weights + epsilon) * norms])


@pytest.mark.parametrize(
    ("budget", "future", "sinks", "epsilon"), [(20, 30, 4, 0.0), (30, 1, 0, 0.02), (500, 9, 4, 0.0)]
)
def test_expected_attention(reference, qkv, budget: int, future: int, sinks: int, epsilon: float, chunks: list[int]):
    q, k, v = qkv
    q = q * 0.5 + torch.linspace(-1, 1, reference.D)  # a mean that is not zero
    qr, kr = reference.rotate(q), reference.rotate(k)
    n = reference.PROMPT
    kept = []
    for g in range(reference.HKV):
        score = scores_of(reference, q, k, v, g, future, sinks, epsilon).tolist()
        kept.append(sorted(sorted(range(n), key=lambda s, score=score: -score[s])[:budget]))

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1)) if t < n else kept[g] + list(range(n, t + 1))
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = reference.run(ExpectedAttention(budget, future, sinks, epsilon), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=3e-6, rtol=1e-5)


def test_the_closed_form_is_the_mean_over_gaussian_queries() -> None:
    """exp of the expected logit is E exp(q k scale) for Gaussian q, which 200,000 draws confirm."""
    g = torch.Generator().manual_seed(0)
    d, scale = 6, 0.15
    root, mean = torch.randn(d, d, generator=g), torch.randn(d, generator=g)
    keys = torch.randn(1, 1, 5, d, generator=g)
    draws = mean + torch.randn(200_000, d, generator=g) @ root.T
    sampled = torch.exp(draws @ keys[0, 0].T * scale).mean(0).log()
    covariance = (root @ root.T * scale**2 / 2).view(1, 1, 1, d, d)
    expected = expected_logits(keys, mean.view(1, 1, 1, d) * scale, covariance)
    torch.testing.assert_close(expected[0, 0, 0], sampled, atol=0.05, rtol=0)
