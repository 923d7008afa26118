"""Infini-attention against its equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Infini
from kvfrontier.methods.axes import Selection
from kvfrontier.methods.memory.infini import InfiniDelta, InfiniMemory
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.window import WindowSelection

SEGMENT = 24


def phi(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, x.exp())


def matrices(reference, k: Tensor, v: Tensor, delta: bool) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """M and z of each head before each segment but the first; equations 8 and 9, token by token."""
    found = {}
    for g in range(reference.HKV):
        M, z = torch.zeros(reference.D, reference.D), torch.zeros(reference.D)
        for begin in range(0, reference.T - SEGMENT, SEGMENT):
            M_new, z_new = M.clone(), z.clone()
            for s in range(begin, begin + SEGMENT):
                f, value = phi(k[0, g, s]), v[0, g, s]
                if delta and begin:
                    value = value - f @ M / (f @ z)
                M_new, z_new = M_new + torch.outer(f, value), z_new + f
            M, z = M_new, z_new
            found[g, begin + SEGMENT] = M, z
    return found


@pytest.mark.parametrize("update", [Infini, InfiniDelta], ids=["linear", "delta"])
@pytest.mark.parametrize("betas", [None, [-1.0, 0.2, 0.7, 3.0]], ids=["one-gate", "gate-a-head"])
def test_infini(reference, qkv, update: Any, betas: list[float] | None, chunks: list[int]) -> None:
    """Segment by segment; local attention with the text's own positions, the memory with none."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    memories = matrices(reference, k, v, update is InfiniDelta)
    method, layer = update(SEGMENT, 0.7), reference.layer
    if betas:
        gate = method.module(layer)
        assert gate.beta.tolist() == pytest.approx([0.7] * reference.HQ)
        gate.beta.data = torch.tensor(betas)
        layer = replace(layer, params=gate)

    def output(h: int, g: int, t: int) -> Tensor:
        start = t // SEGMENT * SEGMENT
        local = reference.attend(qr[0, h, t], kr[0, g, start : t + 1], v[0, g, start : t + 1])
        if start == 0:
            return local
        M, z = memories[g, start]
        f = phi(q[0, h, t])
        beta = torch.tensor(betas[h] if betas else 0.7).sigmoid()
        return beta * (f @ M / (f @ z)) + (1 - beta) * local

    with torch.no_grad():
        got = reference.run(method, q, k, v, chunks, layer)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_the_matrix_behind_a_window(reference, qkv, chunks: list[int]) -> None:
    """Tokens that leave one by one: a query finds in the matrix all that left before it, itself not."""
    q, k, v = qkv
    window, sinks = 16, 2

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        gone = [s for s in range(t + 1) if s not in seen]
        keys = reference.rope.apply(k[:, g : g + 1, seen], torch.arange(len(seen))[None])[0, 0]
        query = reference.rope.apply(q[:, h : h + 1, t : t + 1], torch.tensor([[len(seen) - 1]]))[0, 0, 0]
        local = reference.attend(query, keys, v[0, g, seen])
        if not gone:
            return local
        weights = phi(k[0, g, gone]) @ phi(q[0, h, t])
        return 0.5 * (weights @ v[0, g, gone] / weights.sum()) + 0.5 * local

    method = Cached(WindowSelection(window, sinks), memory=InfiniMemory(), positions=InCachePositions())
    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_the_delta_rule_does_not_add_what_is_there(reference) -> None:
    """The same segment again changes the linear matrix, and the delta rule's by what it could not hold."""
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, reference.HKV, 1, reference.D, generator=g) for _ in range(2))
    grown = {}
    for update in ("linear", "delta"):
        memory = InfiniMemory(update=update)
        state = memory.init(reference.layer, 1)
        memory.absorb(state, k, v)
        once = state.M
        memory.absorb(state, k, v)
        grown[update] = (state.M - once).abs().max().item()
    assert grown["delta"] < 1e-4 < grown["linear"]


@pytest.mark.parametrize(
    ("selection", "positions", "message"),
    [
        (WindowSelection(16), InCachePositions(), "lets single tokens leave; choose method/selection=segment"),
        (Selection(), InCachePositions(), "lets nothing leave"),
    ],
)
def test_what_the_delta_rule_cannot_take_is_refused(selection: Selection, positions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cached(selection, memory=InfiniMemory(update="delta"), positions=positions)
