"""Longformer's causal pattern against its definition, and its state against what later queries may see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Sinks
from kvfrontier.methods.patterns.longformer import Longformer


@pytest.mark.parametrize("global_tokens", [0, 3])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_a_query_sees_its_dilated_window_and_the_global_tokens(
    reference, qkv, chunks: list[int], dilation: int, global_tokens: int
) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        window = {t - i * dilation for i in range(8)}
        seen = [s for s in range(t + 1) if s < global_tokens or t < global_tokens or s in window]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = reference.run(Longformer(8, dilation, global_tokens), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_without_gaps_it_is_a_window_with_sinks(reference, qkv, chunks: list[int]) -> None:
    """The same output and the same bytes as StreamingLLM's tokens at their own positions."""
    ours, same = Longformer(20, 1, 4), Sinks(window=20, sinks=4, positions="original")
    torch.testing.assert_close(
        reference.run(ours, *qkv, chunks), reference.run(same, *qkv, chunks), atol=5e-6, rtol=1e-5
    )
    for n in (1, 4, 23, 24, 25, 1000):
        assert ours.footprint(reference.layer, 2, n) == same.footprint(reference.layer, 2, n)


def test_gaps_are_held_and_not_read(reference) -> None:
    """8 keys 5 apart reach back over 36 tokens; one token reads 8 of them, and 3 global ones."""
    footprint, token = Longformer(8, 5, 3).footprint(reference.layer, 1, 1000), reference.layer.kv_bytes
    assert (footprint.held.live, footprint.read) == (39 * token, 11 * token)


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="set both to at least 1"):
        Longformer(dilation=0)
    with pytest.raises(ValueError, match="set it to at least 0"):
        Longformer(global_tokens=-1)
