"""The memory of one layer against its formula: which keys a query finds, and how they are joined."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Layer, Window
from kvfrontier.methods.retrieval.memorizing import Memorizing


@pytest.mark.parametrize("positions", ["in_cache", "original"])
@pytest.mark.parametrize("join", ["softmax", "gate"])
@pytest.mark.parametrize(("window", "top"), [(16, 5), (7, 1)])
def test_a_query_finds_the_nearest_keys(
    reference, qkv, positions: str, join: str, window: int, top: int, chunks: list[int]
) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    share = 1 / (1 + math.exp(-0.7))

    def output(h: int, g: int, t: int) -> Tensor:
        far, near = list(range(max(0, t + 1 - window))), list(range(max(0, t + 1 - window), t + 1))
        query, local, remembered = qr[0, h, t], kr[0, g, near], kr[0, g, far]
        if positions == "in_cache":  # the memory stands at 0, the window behind it
            places = torch.arange(1, 1 + len(near))[None]
            local = reference.rope.apply(k[:, g : g + 1, near], places)[0, 0]
            query = reference.rope.apply(q[:, h : h + 1, t : t + 1], torch.tensor([[len(near)]]))[0, 0, 0]
            remembered = k[0, g, far]
        found = sorted(far, key=lambda s: float(remembered[s] @ query), reverse=True)[:top]
        if join == "softmax":
            return reference.attend(query, torch.cat([remembered[found], local]), v[0, g, found + near])
        out = reference.attend(query, local, v[0, g, near])
        if not found:
            return out
        return share * reference.attend(query, remembered[found], v[0, g, found]) + (1 - share) * out

    method = Memorizing(window, top, join=join, gate=0.7, positions=positions)  # pyright: ignore[reportArgumentType]
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_each_head_learns_its_gate(reference, qkv, chunks: list[int]) -> None:
    """out = g attention(q, found) + (1 - g) attention(q, window), g = sigmoid(b) of the head; while nothing has left
    the window, the window's."""
    q, k, v = qkv
    qr, kr, window, top = reference.rotate(q), reference.rotate(k), 12, 4
    method = Memorizing(window, top, layer=0, join="gate", gate=0.3, positions="original")
    gate = method.module(reference.layer)
    assert gate is not None and torch.equal(gate.beta, torch.full((reference.HQ,), 0.3))
    with torch.no_grad():
        gate.beta.copy_(torch.tensor([-2.0, 0.5, 0.0, 3.0]))
    beta = gate.beta.detach().clone().requires_grad_()

    def output(h: int, g: int, t: int) -> Tensor:
        far, near = range(max(0, t + 1 - window)), range(max(0, t + 1 - window), t + 1)
        local = reference.attend(qr[0, h, t], kr[0, g, near], v[0, g, near])
        if not far:
            return local
        found = sorted(far, key=lambda s: float(kr[0, g, s] @ qr[0, h, t]), reverse=True)[:top]
        share = 1 / (1 + torch.exp(-beta[h]))
        return share * reference.attend(qr[0, h, t], kr[0, g, found], v[0, g, found]) + (1 - share) * local

    expected = reference.by_token(output)
    got = reference.run(method, q, k, v, chunks, replace(reference.layer, params=gate))
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-5)
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(gate.beta.grad, beta.grad, atol=1e-4, rtol=1e-4)
    assert Memorizing(window, top, layer=0).module(reference.layer) is None


def test_finding_all_at_original_positions_it_is_dense(reference, qkv, chunks: list[int]) -> None:
    """Nothing is lost."""
    everything = Memorizing(window=8, top=reference.T, positions="original")
    got, dense = (reference.run(method, *qkv, chunks) for method in (everything, Dense()))
    torch.testing.assert_close(got, dense, atol=3e-6, rtol=1e-5)


def test_one_layer_remembers_and_the_others_are_local() -> None:
    layers = [Layer(i, 12, 4, 2, 32, 32, 1.0) for i in range(12)]
    method, window, token = Memorizing(window=64, top=8), Window(64), layers[0].kv_bytes
    for layer in layers:
        held = method.footprint(layer, 1, 1000).held
        if layer.index == 8:
            assert held.host == (1000 - 64) * token
            assert held.device == 64 * token
            read = method.footprint(layer, 1, 1000).read
            assert read == 64 * token + (936 * 2 * 32 + 8 * 4 * 32) * 4
        else:
            assert held == window.footprint(layer, 1, 1000).held
    assert not method.bounded


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.top"):
        Memorizing(top=0)
    with pytest.raises(ValueError, match=r"method\.window"):
        Memorizing(window=0)
