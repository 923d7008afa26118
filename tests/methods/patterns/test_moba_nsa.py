"""MoBA and native sparse attention against their equations, written token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.patterns import selected
from kvfrontier.methods.patterns.moba import Moba
from kvfrontier.methods.patterns.selected import attend_selected


@pytest.mark.parametrize("topk", [1, 2, 4])
def test_moba_attends_to_the_blocks_of_highest_mean_key(reference, qkv, topk: int, chunks: list[int]) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    size = 8

    def output(h: int, g: int, t: int) -> Tensor:
        own = t // size
        scores = [float(kr[0, g, i * size : (i + 1) * size].mean(0) @ qr[0, h, t]) for i in range(own)]
        blocks = {own, *sorted(range(own), key=lambda i: -scores[i])[: topk - 1]}
        seen = [s for s in range(t + 1) if s // size in blocks]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    torch.testing.assert_close(
        reference.run(Moba(size, topk), q, k, v, chunks), reference.by_token(output), atol=5e-6, rtol=1e-5
    )


@pytest.mark.parametrize("choosers", [4, 2], ids=["each-head-chooses", "a-group-chooses"])
@pytest.mark.parametrize("tile", [1, 3, 64])
def test_chosen_blocks_are_attended_and_no_others(reference, qkv, monkeypatch, choosers: int, tile: int) -> None:
    """Random choices of 3 of 12 blocks, some of them in the query's future; the last block has 2 tokens of 8."""
    monkeypatch.setattr(selected, "TILE", tile)
    q, k, v = qkv
    q, first, g = q[:, :, -23:], reference.T - 23, torch.Generator().manual_seed(0)
    chosen = torch.rand(1, choosers, 23, 11, generator=g).argsort(-1)[..., :3]
    chosen[..., 0] = (first + torch.arange(23)) // 8 - 1  # so that each sees something
    chosen[..., 1:] += chosen[..., 1:] >= chosen[..., :1]

    def output(h: int, head: int, t: int) -> Tensor:
        blocks = chosen[0, h * choosers // 4, t].tolist()
        seen = [s for s in range(first + t + 1) if s // 8 in blocks]
        return reference.attend(q[0, h, t], k[0, head, seen], v[0, head, seen])

    o, lse = attend_selected(q, k, v, chosen, first, 8, reference.layer)
    torch.testing.assert_close(o, reference.by_token(output, 23), atol=5e-6, rtol=1e-5)
    ones = attend_selected(q, k, torch.ones_like(v), chosen, first, 8, reference.layer)[0]
    torch.testing.assert_close(ones, torch.ones_like(ones))
    assert lse.shape == q.shape[:3]


def test_moba_holds_mean_keys_and_reads_the_chosen_blocks(reference) -> None:
    """After 1,003 tokens, 8 a block: 125 means in float32; two heads a group choose 2 blocks each beside their own."""
    footprint, layer = Moba(8, 3).footprint(reference.layer, 1, 1000, 3), reference.layer
    means = 125 * 2 * 16 * 4
    assert footprint.held.payload == 1003 * layer.kv_bytes + means
    assert footprint.read == (4 * 8 + 3) * layer.kv_bytes + means


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="set both to at least 1"):
        Moba(topk=0)
