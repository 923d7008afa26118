"""Moving averages against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, MovingAverage
from kvfrontier.methods.memory.moving_average import MovingAverageMemory, MovingAverageWeighted, OneSlotMemory
from kvfrontier.methods.memory.moving_average_window import MovingAverageWindow, WindowAverageMemory
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.window import WindowSelection


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


def averaged(reference, qkv, window: int, mass: str, weight: Callable[[int, int], float]) -> Tensor:
    """A window, and a slot with the mean of what left it: token i of the n that left weighs weight(i, n)."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        n = max(0, t + 1 - window)
        keys, values = [kr[0, g, n : t + 1]], [v[0, g, n : t + 1]]
        if n:
            weights = torch.tensor([weight(i, n) for i in range(n)])
            for parts, x in ((keys, kr[0, g, :n]), (values, v[0, g, :n])):
                parts.append((weights @ x / weights.sum())[None])
        logits = torch.cat(keys) @ qr[0, h, t] * reference.SCALE
        if n and mass == "count":
            logits[-1] += math.log(weights.sum())
        return logits.softmax(0) @ torch.cat(values)

    return reference.by_token(output)


@pytest.mark.parametrize("mass", ["one", "count"])
@pytest.mark.parametrize("window", [0, 1, 24])
def test_weighted_moving_average(reference, qkv, window: int, mass: Any, chunks: list[int]) -> None:
    """A token that left a tokens before the last one weighs decay^a."""
    got = reference.run(MovingAverageWeighted(window, 0.8, mass), *qkv, chunks)
    expected = averaged(reference, qkv, window, mass, lambda i, n: 0.8 ** (n - 1 - i))
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(("window", "over"), [(0, 1), (0, 13), (24, 16), (10, 500)])
@pytest.mark.parametrize(("decay", "mass"), [(1.0, "one"), (1.0, "count"), (0.8, "count")])
def test_moving_average_over_a_window(
    reference, qkv, window: int, over: int, decay: float, mass: Any, chunks: list[int]
) -> None:
    """Only the last `over` tokens that left are averaged."""
    got = reference.run(MovingAverageWindow(window, over, decay, mass), *qkv, chunks)

    def weight(i: int, n: int) -> float:
        return decay ** (n - 1 - i) if i >= n - over else 0.0

    expected = averaged(reference, qkv, window, mass, weight)
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [MovingAverage(0), MovingAverageWeighted(0), MovingAverageWindow(0, 16)],
    ids=["all", "weighted", "window"],
)
def test_one_averaged_slot_alone_does_not_depend_on_the_query(reference, qkv, method: Cached) -> None:
    q, k, v = qkv
    chunks = [reference.T]
    assert torch.equal(reference.run(method, q, k, v, chunks), reference.run(method, torch.randn_like(q), k, v, chunks))


def test_a_mean_over_a_long_text_is_as_exact_as_over_a_short_one(reference) -> None:
    """Sums of the newest tokens by doubling, not as differences of sums of all."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 20_000, 4, generator=g) + 1e3
    memory = WindowAverageMemory(over=37)
    last = memory.trailing_sums(x, 37)[0, 0, -1] / 37
    torch.testing.assert_close(last, x[0, 0, -37:].double().mean(0).float(), atol=2e-4, rtol=0)
    decayed = MovingAverageMemory(decay=0.9).trailing_sums(x)[0, 0, -1]
    expected = sum(0.9**a * x[0, 0, -1 - a].double() for a in range(400)).float()  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(decayed, expected, atol=2e-2, rtol=1e-6)


@pytest.mark.parametrize("memory", [MovingAverageMemory(), WindowAverageMemory(over=16)], ids=str)
def test_the_mean_stands_in_the_first_slot_of_the_cache(reference, qkv, memory: OneSlotMemory, chunks) -> None:
    """With positions in the cache, the mean of keys before RoPE is slot 0 and the window follows it."""
    q, k, v = qkv
    window = 12

    def output(h: int, g: int, t: int) -> Tensor:
        n = max(0, t + 1 - window)
        first = max(0, n - getattr(memory, "over", n))
        means = [x[0, g, first:n].mean(0)[None] for x in (k, v)] if n else [torch.zeros(0, reference.D)] * 2
        keys, values = torch.cat([means[0], k[0, g, n : t + 1]]), torch.cat([means[1], v[0, g, n : t + 1]])
        slots = torch.arange(len(keys))[None] + (0 if n else 1)
        keys = reference.rope.apply(keys[None, None], slots)[0, 0]
        query = reference.rope.apply(q[:, h : h + 1, t : t + 1], slots[:, -1:])[0, 0, 0]
        return reference.attend(query, keys, values)

    method = Cached(WindowSelection(window), memory=memory, positions=InCachePositions())
    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=5e-6, rtol=1e-5)
