"""Window, sinks and SnapKV against their formulas."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Sinks, SnapKV, Window


@pytest.mark.parametrize(("window", "sinks"), [(20, 0), (16, 4), (200, 4), (1, 1)])
def test_window_and_sinks(reference, qkv, window: int, sinks: int, chunks: list[int]) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    method = Sinks(window, sinks, "original") if sinks else Window(window)
    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=3e-6, rtol=1e-5)


def test_sinks_with_positions_in_the_cache(reference, qkv, chunks: list[int]) -> None:
    """StreamingLLM as its paper says: what is in the cache is rotated to its place there, the query stands last."""
    q, k, v = qkv
    window, sinks = 16, 4

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        keys = reference.rope.apply(k[:, g : g + 1, seen], torch.arange(len(seen))[None])[0, 0]
        query = reference.rope.apply(q[:, h : h + 1, t : t + 1], torch.tensor([[len(seen) - 1]]))[0, 0, 0]
        return reference.attend(query, keys, v[0, g, seen])

    torch.testing.assert_close(
        reference.run(Sinks(window, sinks), q, k, v, chunks), reference.by_token(output), atol=3e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("budget", "kernel", "pooling"), [(30, 5, "mean"), (12, 1, "mean"), (500, 7, "mean"), (30, 5, "max")]
)
def test_snapkv(reference, qkv, budget: int, kernel: int, pooling: Literal["mean", "max"], chunks: list[int]) -> None:
    """Weights of the last queries, summed, averaged over the group, pooled; the best stay with the window."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    w = 8
    kept = {}
    for g in range(reference.HKV):
        score = torch.zeros(reference.PROMPT)
        for h in range(g * reference.HQ // reference.HKV, (g + 1) * reference.HQ // reference.HKV):
            for t in range(reference.PROMPT - w, reference.PROMPT):
                score[: t + 1] += (kr[0, g, : t + 1] @ qr[0, h, t] * reference.SCALE).softmax(0) / (
                    reference.HQ // reference.HKV
                )
        past = score[: reference.PROMPT - w].tolist()
        half = kernel // 2
        near = [past[max(0, i - half) : i + half + 1] for i in range(len(past))]
        pooled = [max(x) if pooling == "max" else sum(x) / kernel for x in near]
        best = sorted(range(len(past)), key=lambda i: -pooled[i])[: max(0, min(budget, reference.PROMPT) - w)]
        kept[g] = sorted(best) + list(range(reference.PROMPT - w, reference.PROMPT))

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1)) if t < reference.PROMPT else kept[g] + list(range(reference.PROMPT, t + 1))
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = reference.run(SnapKV(budget, w, kernel, pooling), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=3e-6, rtol=1e-5)
