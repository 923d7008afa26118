"""The low-rank store against a singular value decomposition of the prompt's keys and values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Step
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.stores import palu
from kvfrontier.methods.stores.palu import Coordinates, Palu, PaluStore


def projected(x: Tensor, prompt: Tensor, rank: int) -> Tensor:
    """Tokens x [n, D] on the `rank` leading right singular vectors of the prompt."""
    directions = torch.linalg.svd(prompt, full_matrices=False).Vh[:rank]
    return x @ directions.T @ directions


def test_after_the_prompt_tokens_are_seen_in_its_leading_directions(reference, qkv, chunks: list[int]) -> None:
    """The prompt's own tokens and those that follow, these themselves included."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    low_k, low_v = (
        torch.stack([projected(x[0, g], x[0, g, : reference.PROMPT], 6) for g in range(reference.HKV)]) for x in (kr, v)
    )

    def output(h: int, g: int, t: int) -> Tensor:
        keys, values = (kr[0, g], v[0, g]) if t < reference.PROMPT else (low_k[g], low_v[g])
        return reference.attend(qr[0, h, t], keys[: t + 1], values[: t + 1])

    got = reference.run(Palu(6), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tile", [8, 2048])
def test_before_rope_keys_are_rotated_after_they_are_turned_back(
    reference, qkv, monkeypatch, tile: int, chunks: list[int]
) -> None:
    monkeypatch.setattr(palu, "TILE", tile)
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    prompt = reference.PROMPT
    low_k, low_v = (
        torch.stack([projected(x[0, g], x[0, g, :prompt], 6) for g in range(reference.HKV)]) for x in (k, v)
    )
    low_k = reference.rotate(low_k[None])[0]

    def output(h: int, g: int, t: int) -> Tensor:
        keys, values = (kr[0, g], v[0, g]) if t < prompt else (low_k[g], low_v[g])
        return reference.attend(qr[0, h, t], keys[: t + 1], values[: t + 1])

    method = Cached(store=PaluStore(6), positions=InCachePositions())
    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=2e-5, rtol=1e-5)


def test_no_basis_of_that_rank_loses_less_of_the_prompt() -> None:
    """The squared error is the sum of the squared singular values that are left out (Eckart and Young)."""
    x = torch.randn(2, 3, 50, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 16)
    lost = (x - Coordinates.of(x, 5).read(0, 50)).square().sum((2, 3))
    torch.testing.assert_close(lost, torch.linalg.svdvals(x)[..., 5:].square().sum(-1), rtol=1e-4, atol=1e-4)


def test_what_a_selection_keeps_is_what_the_basis_is_of(reference, qkv) -> None:
    """SnapKV's tokens, held in their own leading directions."""
    q, k, v = qkv
    method = Cached(SnapKVSelection(20, 8, 3), PaluStore(8))
    layer, state = reference.layer, method.init_state(reference.layer, 1)
    whole = Cached(SnapKVSelection(20, 8, 3))
    full = whole.init_state(layer, 1)
    step = Step(torch.arange(reference.T)[None], 0)
    for m, s in ((method, state), (whole, full)):
        m.attend(q, k, v, s, layer, step)
        m.seal(s, layer)
    kept = full.store.k.view()
    for g in range(reference.HKV):
        held = state.store.k.read(0, 20)[0, g]
        torch.testing.assert_close(held, projected(kept[0, g], kept[0, g], 8), atol=1e-5, rtol=1e-5)


def test_a_token_reads_the_bases_too(reference) -> None:
    """Two heads' coordinates of 50 tokens, and a basis of 16 x 6 for keys and for values."""
    footprint = Palu(6).footprint(reference.layer, 3, 50)
    assert footprint.read == 2 * 2 * 6 * (50 + 16) * 4
    assert footprint.held.payload == 3 * footprint.read


def test_half_of_a_head_is_kept_unless_told_otherwise(reference) -> None:
    layer = reference.layer
    assert Palu().footprint(layer, 1, 50) == Palu(layer.d // 2).footprint(layer, 1, 50)
    assert Palu().nominal(layer, 1, 50) == 50 * layer.kv_bytes // 2


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"set method\.rank to at least 1"):
        Palu(0)
