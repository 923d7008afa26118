"""Ada-KV against its algorithm, written out for each head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import SnapKV
from kvfrontier.methods.selection.adakv import AdaKV, AdaKVSelection

WINDOW, KERNEL = 8, 5


def pooled_scores(reference, qr: Tensor, kr: Tensor, g: int) -> list[float]:
    """SnapKV's scores of the tokens before the window, as in its own test."""
    n, group = reference.PROMPT, reference.HQ // reference.HKV
    score = torch.zeros(n)
    for h in range(g * group, (g + 1) * group):
        for t in range(n - WINDOW, n):
            score[: t + 1] += (kr[0, g, : t + 1] @ qr[0, h, t] * reference.SCALE).softmax(0) / group
    past, half = score[: n - WINDOW].tolist(), KERNEL // 2
    return [sum(past[max(0, i - half) : i + half + 1]) / KERNEL for i in range(len(past))]


@pytest.mark.parametrize(("budget", "alpha"), [(20, 0.2), (31, 0.0), (66, 0.5), (500, 0.2)])
def test_adakv(reference, qkv, budget: int, alpha: float, chunks: list[int]) -> None:
    """The layer's best scores say how many tokens a head gets, a share goes to all alike; each keeps its own best."""
    q, k, v = qkv
    # One head whose attention is sharp, one whose attention is flat.
    k = torch.cat([k[:, :1] * 2.5, k[:, 1:] * 0.3], 1)
    qr, kr = reference.rotate(q), reference.rotate(k)
    n, heads = reference.PROMPT, range(reference.HKV)
    mean = min(budget, n) - WINDOW
    scores = [pooled_scores(reference, qr, kr, g) for g in heads]
    best = sorted(((s, g) for g in heads for s in scores[g]), reverse=True)[: len(heads) * mean]
    quota = [(1 - alpha) * sum(g == own for _, own in best) + alpha * mean for g in heads]
    deserved = [int(x + 1e-9) for x in quota]
    while sum(deserved) < len(heads) * mean:
        deserved[max(heads, key=lambda g: quota[g] - deserved[g])] += 1
    if budget < n:
        assert deserved[0] != deserved[1], "the heads of this text differ"
    kept = [
        sorted(sorted(range(n - WINDOW), key=lambda i, g=g: -scores[g][i])[: deserved[g]]) + list(range(n - WINDOW, n))
        for g in heads
    ]

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1)) if t < n else kept[g] + list(range(n, t + 1))
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = reference.run(AdaKV(budget, WINDOW, KERNEL, alpha), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=3e-6, rtol=1e-5)


def test_with_all_dealt_alike_it_is_snapkv(reference, qkv, chunks: list[int]) -> None:
    q, k, v = qkv
    ada, snap = (reference.run(m, q, k, v, chunks) for m in (AdaKV(24, 8, 5, alpha=1.0), SnapKV(24, 8, 5)))
    torch.testing.assert_close(ada, snap, atol=3e-6, rtol=1e-5)


def test_the_layers_total_is_exact_and_slots_are_a_partition() -> None:
    """Whatever the scores, the share and the rounding; a head that deserves nothing keeps its window."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        scores = torch.rand(3, 5, 60, generator=g) * torch.rand(3, 5, 1, generator=g) ** 4
        scores[..., -WINDOW:] = float("inf")
        for m in (9, 17, 40, 59):
            for alpha in (0.0, 0.2, 0.33, 1.0):
                keep, gone = AdaKVSelection(m, WINDOW, KERNEL, alpha=alpha).choose(scores, m)
                assert keep.shape == (3, 5 * m)
                assert torch.equal(torch.cat([keep, gone], 1).sort(1).values, torch.arange(300).expand(3, 300))
                assert (keep.diff(dim=1) > 0).all()
                lengths = (keep.unsqueeze(-1) // 60 == torch.arange(5)).sum(1)
                assert (lengths >= WINDOW + int(alpha * (m - WINDOW) - 1e-9)).all()
