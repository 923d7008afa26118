"""Selections that score the prompt's tokens once, when it ends, against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.layer import Layer
from kvfrontier.methods.selection.key_norm import KeyNorm
from kvfrontier.methods.selection.keydiff import KeyDiff
from kvfrontier.methods.selection.random import Random, RandomSelection


def kept_by(score: Callable[[int, int], float], heads: int, n: int, budget: int) -> list[list[int]]:
    """Tokens that each head keeps of n: the `budget` with the highest score(head, token)."""
    return [sorted(sorted(range(n), key=lambda s, g=g: -score(g, s))[:budget]) for g in range(heads)]


def expected(reference, q: Tensor, k: Tensor, v: Tensor, kept: list[list[int]]) -> Tensor:
    """Dense attention over the prompt, and then over what is kept of it and what is decoded."""
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        n = reference.PROMPT
        seen = list(range(t + 1)) if t < n else kept[g] + list(range(n, t + 1))
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    return reference.by_token(output)


@pytest.mark.parametrize("budget", [12, 69, 500])
def test_key_norm(reference, qkv, budget: int, chunks: list[int]) -> None:
    """The shortest keys stay."""
    q, k, v = qkv
    kept = kept_by(lambda g, s: -sum(x * x for x in k[0, g, s].tolist()), reference.HKV, reference.PROMPT, budget)
    got = reference.run(KeyNorm(budget), q, k, v, chunks)
    torch.testing.assert_close(got, expected(reference, q, k, v, kept), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("budget", [12, 500])
def test_keydiff(reference, qkv, budget: int, chunks: list[int]) -> None:
    """The keys least like the mean of the normalised keys stay, keys as attended."""
    q, k, v = qkv
    kr = reference.rotate(k)
    anchors = [
        torch.stack([kr[0, g, s] / kr[0, g, s].norm() for s in range(reference.PROMPT)]).mean(0)
        for g in range(reference.HKV)
    ]

    def score(g: int, s: int) -> float:
        return -(anchors[g] @ kr[0, g, s] / (anchors[g].norm() * kr[0, g, s].norm())).item()

    kept = kept_by(score, reference.HKV, reference.PROMPT, budget)
    got = reference.run(KeyDiff(budget), q, k, v, chunks)
    torch.testing.assert_close(got, expected(reference, q, k, v, kept), atol=3e-6, rtol=1e-5)


def test_random_keeps_just_its_draw(reference, qkv, chunks: list[int]) -> None:
    """The draw, known from a plain Python hash of (slot, head, layer, seed), is what is attended."""
    q, k, v = qkv

    def scramble(x: int) -> int:
        for _ in range(3):
            x = (x ^ x >> 16) * 0x45D9F3B % 2**32
        return x ^ x >> 16

    def score(g: int, s: int) -> int:
        return scramble(scramble(scramble(scramble(5) ^ reference.layer.index) ^ g) ^ s)

    kept = kept_by(score, reference.HKV, reference.PROMPT, 20)
    got = reference.run(Random(20, seed=5), q, k, v, chunks)
    torch.testing.assert_close(got, expected(reference, q, k, v, kept), atol=3e-6, rtol=1e-5)


def test_random_is_uniform_over_slots_heads_layers_and_seeds() -> None:
    """Each slot is kept as often as any other, and another head, layer or seed keeps others."""
    n, m, heads, layers = 64, 16, 8, 24
    counts, draws = torch.zeros(n), set()
    for seed in range(20):
        for index in range(layers):
            layer = Layer(index, layers, heads, heads, 4, 4, 1.0)
            k = torch.empty(1, heads, n, 4)
            selection = RandomSelection(m, seed)
            keep, gone = selection.choose(selection.scores(None, k, k, layer), m)
            assert keep.shape == (1, heads, m)
            assert gone.shape == (1, heads, n - m)
            counts.scatter_add_(0, keep.flatten(), torch.ones(keep.numel()))
            draws |= {tuple(head) for head in keep[0].tolist()}
    trials = 20 * layers * heads
    assert len(draws) == trials
    # Binomial: five standard deviations.
    p = m / n
    assert ((counts / trials - p).abs() < 5 * (p * (1 - p) / trials) ** 0.5).all()
