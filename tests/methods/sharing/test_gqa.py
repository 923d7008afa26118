"""Merged heads against the paper's formula, against merged weights, and the equivalence of GQA and repeated heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Dense, Layer, Sinks, SnapKV, Step, registry
from kvfrontier.methods.sharing.gqa import GQA, MQA, Merged
from kvfrontier.runners.session import Session

WIDE = Layer(index=0, count=1, hq=4, hkv=4, d=16, dv=16, scale=0.35)


def test_merged_heads_are_the_mean_of_their_group(reference, qkv, chunks: list[int]) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    keys = torch.stack([sum(kr[0, g, t] for g in range(reference.HKV)) / reference.HKV for t in range(reference.T)])
    values = torch.stack([sum(v[0, g, t] for g in range(reference.HKV)) / reference.HKV for t in range(reference.T)])

    def output(h: int, g: int, t: int) -> Tensor:
        return reference.attend(qr[0, h, t], keys[: t + 1], values[: t + 1])

    expected = reference.by_token(output)
    for method in (GQA(heads=1), MQA()):
        torch.testing.assert_close(reference.run(method, q, k, v, chunks), expected, atol=3e-6, rtol=1e-5)


def test_neighbours_are_merged(reference) -> None:
    """Four heads on two: the first two and the last two, as their queries are."""
    q, k, v = (torch.randn(1, 4, reference.T, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    kr = reference.rotate(k)
    qr = reference.rotate(q)

    def output(h: int, g: int, t: int) -> Tensor:
        a = h // 2 * 2
        return reference.attend(
            qr[0, h, t], (kr[0, a, : t + 1] + kr[0, a + 1, : t + 1]) / 2, (v[0, a, : t + 1] + v[0, a + 1, : t + 1]) / 2
        )

    got = reference.run(GQA(heads=2), q, k, v, [13, 50, 7, 20], replace(WIDE, scale=reference.SCALE))
    torch.testing.assert_close(got, reference.by_token(output), atol=3e-6, rtol=1e-5)


def test_merging_heads_is_merging_their_projections(text: Any, llama: Any) -> None:
    """The paper's conversion: a model whose key and value projections are the mean of the group's."""
    merged = text.made("llama", num_key_value_heads=1, head_dim=16)
    weights = dict(llama.state_dict())
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.unflatten(0, (2, 16)).mean(0)
    merged.load_state_dict(weights)
    ids = text.tokens()
    assert text.error(llama, GQA(heads=1), ids, text.own(merged, ids)) < 1e-5


def test_as_many_heads_as_the_model_has_are_dense(text: Any, llama: Any) -> None:
    ids = text.tokens()
    assert text.error(llama, GQA(heads=2), ids, text.own(llama, ids)) < 1e-5
    assert text.error(llama, GQA(heads=1), ids, text.own(llama, ids)) > 1e-2


def filled(method: Any, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, Tensor]:
    """The state after a text, and the outputs."""
    state, out = method.init_state(layer, 1), []
    for a, b in ((0, 40), (40, 41), (41, q.shape[2])):
        step = Step(torch.arange(a, b)[None], a)
        out.append(method.attend(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], state, layer, step))
    return state, torch.cat(out, 2)


def test_grouped_heads_equal_repeated_heads(qkv) -> None:
    """GQA is MHA whose heads are repeated, from a state that is as many times smaller; repeated heads merged again
    give the grouped state bit by bit."""
    q, k, v = qkv
    grouped = replace(WIDE, hkv=2)
    repeated = [x.repeat_interleave(2, 1) for x in (k, v)]
    few, expected = filled(Dense(), grouped, q, k, v)
    many, found = filled(Dense(), WIDE, q, *repeated)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    for a, b in ((few.store.k, many.store.k), (few.store.v, many.store.v)):
        assert torch.equal(a.view().repeat_interleave(2, 1), b.view())
    again, found = filled(GQA(heads=2), WIDE, q, *repeated)
    assert torch.equal(found, expected)
    for a, b in ((few.store.k, again.store.k), (few.store.v, again.store.v)):
        assert torch.equal(a.view(), b.view())


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_state_is_as_small_as_its_heads_are_few(heads: int) -> None:
    held = GQA(heads).footprint(WIDE, 3, 100, 10).held.payload
    assert held * 4 == Dense().footprint(WIDE, 3, 100, 10).held.payload * heads


@pytest.mark.parametrize(
    "inner", [SnapKV(30, 8, 5), Sinks(16, 4), registry.build({"name": "kivi", "group": 8, "residual": 16})], ids=repr
)
def test_merging_composes(reference, qkv, inner: Cached) -> None:
    """Whatever runs on a layer runs on its merged heads, keys before RoPE among them."""
    q, k, v = qkv
    narrow = replace(reference.layer, hkv=1)
    pooled = [x.mean(1, keepdim=True) for x in (k, v)]
    for chunks in ([70] + [1] * 20, [13, 50, 7, 20]):
        expected = reference.run(inner, q, *pooled, chunks, narrow)
        torch.testing.assert_close(reference.run(Merged(1, inner), q, k, v, chunks), expected, atol=3e-6, rtol=1e-5)


def test_a_number_of_heads_that_does_not_divide_says_which_do(llama: Any) -> None:
    with (
        pytest.raises(ValueError, match=r"heads 3 does not divide the 2 key/value heads .* to one of 1, 2"),
        Session(llama, GQA(heads=3)),
    ):
        pass
    with pytest.raises(ValueError, match=r"set method\.heads to at least 1"):
        GQA(heads=0)


def test_a_method_that_drives_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="drives the whole model"):
        Merged(1, registry.build({"name": "recompute"}))
