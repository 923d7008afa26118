"""BigBird's causal pattern against its definition, and its random blocks against what random means."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.patterns.bigbird import BigBird

LIKE = torch.empty(0)


@pytest.mark.parametrize(("g", "w", "r"), [(1, 2, 2), (0, 1, 3), (2, 1, 0), (1, 30, 2)])
def test_a_query_sees_global_window_and_random_blocks(
    reference, qkv, chunks: list[int], g: int, w: int, r: int
) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    method = BigBird(8, g, w, r, seed=3)

    def output(h: int, head: int, t: int) -> Tensor:
        i = t // 8
        blocks = {*range(g), *range(i - w + 1, i + 1), *method.drawn(i, reference.layer, LIKE)[head].tolist()}
        seen = [s for s in range(t + 1) if s // 8 in blocks]
        return reference.attend(qr[0, h, t], kr[0, head, seen], v[0, head, seen])

    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_random_blocks_are_distinct_and_lie_between_the_others(reference) -> None:
    """As many as there are room for, never a global one or one of the window."""
    method = BigBird(8, 2, 3, 4)
    for i in range(40):
        between = range(2, max(2, i - 2))
        for blocks in method.drawn(i, reference.layer, LIKE).tolist():
            assert len(set(blocks)) == len(blocks) == min(4, len(between))
            assert set(blocks) <= set(between)


def test_random_blocks_are_uniform(reference) -> None:
    """Of 20 blocks 2 are drawn: each in a tenth of many draws, and in different ones by seed, layer, head and block."""
    layer = replace(reference.layer, hq=200, hkv=200)
    draws = torch.stack([BigBird(8, 0, 1, 2, seed).drawn(20, layer, LIKE) for seed in range(20)])
    shares = torch.zeros(20).index_add(0, draws.flatten(), torch.ones(draws.numel())) / (20 * 200)
    # Five standard deviations of a share of 0.1 in 4,000 draws.
    assert (shares - 0.1).abs().max() < 0.024
    one = BigBird(8, 0, 1, 2)
    rows = [
        one.drawn(20, layer, LIKE),
        one.drawn(20, replace(layer, index=1), LIKE),
        one.drawn(20, layer, LIKE).roll(1, 0),
    ]
    rows += [replace(one, seed=1).drawn(20, layer, LIKE)]
    for other in rows[1:]:
        assert (other.sort(-1).values == rows[0].sort(-1).values).all(-1).float().mean() < 0.05


def test_a_token_reads_its_blocks_of_a_state_that_is_whole(reference) -> None:
    """After 1,003 tokens, 8 a block: 1 global, 2 random, the window's one before, and 3 tokens of its own block."""
    footprint = BigBird(8, 1, 2, 2).footprint(reference.layer, 1, 1000, 3)
    assert footprint.held.payload == 1003 * reference.layer.kv_bytes
    assert footprint.read == (4 * 8 + 3) * reference.layer.kv_bytes


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="set both to at least 1"):
        BigBird(window_blocks=0)
    with pytest.raises(ValueError, match="set both to at least 0"):
        BigBird(random_blocks=-1)
