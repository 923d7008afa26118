"""PyramidKV: what each layer gets, and that with it each layer is SnapKV."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from kvfrontier.methods import SnapKV
from kvfrontier.methods.selection.pyramidkv import PyramidKV, apportion, official_pyramid, pyramid


@pytest.mark.parametrize("n", [1, 31, 32, 33, 255, 256, 300, 511, 512, 1000, 40_000])
@pytest.mark.parametrize("layers", [1, 2, 5, 30, 61])
@pytest.mark.parametrize(("budget", "window", "beta"), [(256, 32, 20), (32, 32, 20), (101, 8, 2), (64, 7, 1)])
def test_the_sum_over_layers_is_conserved(n: int, layers: int, budget: int, window: int, beta: int) -> None:
    kept = pyramid(n, budget, window, beta, layers)
    assert sum(kept) == layers * min(n, budget)
    assert all(a >= b for a, b in pairwise(kept)), "a higher layer never keeps more"
    assert min(kept) >= min(n, window)
    assert max(kept) <= n


def test_a_long_text_gets_the_papers_line() -> None:
    """b - w = 200 and beta = 20: from 390 down to 10 beside the window, in 19 equal steps of 20."""
    assert pyramid(10_000, 232, 32, 20, 20) == tuple(32 + 390 - 20 * layer for layer in range(20))


def test_what_a_short_text_cannot_use_goes_to_the_others() -> None:
    """Of 4 x 60 with shares 4 3 2 1 the first would get 96 and the second 72; none may have more than 70."""
    assert apportion(240, [4, 3, 2, 1], 70) == [70, 70, 67, 33]
    # Without a limit: quotas 4.4, 3.3, 2.2, 1.1; the one left goes to the largest remainder.
    assert apportion(11, [4, 3, 2, 1], 100) == [5, 3, 2, 1]


def test_the_authors_rounding() -> None:
    """By hand from their code: budget 320, window 64 and beta 20 give 12 to 500 in 31 steps of 15."""
    assert official_pyramid(8000, 320, 64, 20, 32) == tuple(64 + 500 - 15 * layer for layer in range(32))
    # 500 do not fit beside the window of 544 tokens: 480 to 32, in steps of 14.
    assert official_pyramid(544, 320, 64, 20, 32) == tuple(64 + 480 - 14 * layer for layer in range(32))
    assert official_pyramid(511, 320, 64, 20, 32) == (320,) * 32
    assert official_pyramid(200, 320, 64, 20, 32) == (200,) * 32
    assert sum(official_pyramid(8000, 320, 64, 20, 32)) != 32 * 320


@pytest.mark.parametrize("official", [False, True])
def test_each_layer_is_snapkv_at_its_own_budget(reference, qkv, official: bool, chunks: list[int]) -> None:
    q, k, v = qkv
    budgets = (official_pyramid if official else pyramid)(reference.PROMPT, 24, 8, 20, 3)
    assert len(set(budgets)) == 3
    for index, budget in enumerate(budgets):
        layer = replace(reference.layer, index=index, count=3)
        got = reference.run(PyramidKV(24, 8, 5, official_rounding=official), q, k, v, chunks, layer)
        expected = reference.run(SnapKV(budget, 8, 5), q, k, v, chunks)
        torch.testing.assert_close(got, expected, atol=0, rtol=0)
