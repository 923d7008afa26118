"""MoBA and native sparse attention against their equations, written token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Window
from kvfrontier.methods.patterns import selected
from kvfrontier.methods.patterns.moba import MoBA
from kvfrontier.methods.patterns.nsa import NSA
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
        reference.run(MoBA(size, topk), q, k, v, chunks), reference.by_token(output), atol=5e-6, rtol=1e-5
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
    footprint, layer = MoBA(8, 3).footprint(reference.layer, 1, 1000, 3), reference.layer
    means = 125 * 2 * 16 * 4
    assert footprint.held.payload == 1003 * layer.kv_bytes + means
    assert footprint.read == (4 * 8 + 3) * layer.kv_bytes + means


@pytest.mark.parametrize(("compress", "stride", "block"), [(8, 4, 8), (8, 4, 16), (4, 4, 4), (12, 4, 8)])
def test_nsa_is_the_mean_of_its_three_branches(
    reference, qkv, compress: int, stride: int, block: int, chunks: list[int]
) -> None:
    """Selected blocks by the weight of the pooled blocks, in proportion to the stretches that they share."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    T, group = reference.T, 2
    starts = range(0, T - compress + 1, stride)
    pooled = [
        [torch.stack([x[0, g, s : s + compress].mean(0) for s in starts]) for x in (kr, v)]
        for g in range(reference.HKV)
    ]

    def weights(h: int, g: int, t: int) -> Tensor:
        there = [c for c, s in enumerate(starts) if s + compress <= t + 1]
        return (pooled[g][0][there] @ qr[0, h, t] * reference.SCALE).softmax(0)

    def selected_blocks(g: int, t: int) -> set[int]:
        importance = torch.zeros(T // block + 1)
        for h in range(g * group, (g + 1) * group):
            for c, weight in enumerate(weights(h, g, t)):
                for stretch in range(starts[c], starts[c] + compress, stride):
                    importance[stretch // block] += weight
        own = t // block
        always = {0, own, max(0, own - 1)}
        others = sorted(set(range(own)) - always, key=lambda i: -importance[i])
        return {*always, *others[: 4 - len(always)]}

    def output(h: int, g: int, t: int) -> Tensor:
        weight = weights(h, g, t)
        compressed = weight @ pooled[g][1][: len(weight)]
        blocks = selected_blocks(g, t)
        near, chosen = (
            [s for s in range(t + 1) if keep(s)] for keep in (lambda s: s > t - 13, lambda s: s // block in blocks)
        )
        branches = [reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen]) for seen in (near, chosen)]
        return (compressed + sum(branches)) / 3

    got = reference.run(NSA(compress, stride, block, 4, 13), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_untrained_parameters_pool_by_the_mean_and_gate_equally(reference, qkv, chunks: list[int]) -> None:
    method = NSA(8, 4, 8, 4, 13)
    layer = replace(reference.layer, params=method.module(reference.layer))
    with torch.no_grad():
        got, expected = (reference.run(method, *qkv, chunks, at) for at in (layer, reference.layer))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("branch", "same"), [(1, Dense()), (2, Window(13))], ids=["selected", "window"])
def test_a_gate_opens_its_branch_alone(reference, qkv, chunks: list[int], branch: int, same) -> None:
    """All blocks selected are dense attention; the window is a window."""
    method = NSA(8, 4, 8, 12, 13)
    params = method.module(reference.layer)
    with torch.no_grad():
        params.bias.fill_(-100.0)
        params.bias[:, branch] = 100.0
        got = reference.run(method, *qkv, chunks, replace(reference.layer, params=params))
        expected = reference.run(same, *qkv, chunks)
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-5)


def test_every_parameter_learns(reference, qkv) -> None:
    """Gates and pooling get a gradient; the MLP's first layer once its last is not zero."""
    method = NSA(8, 4, 8, 4, 13)
    params = method.module(reference.layer)
    for pooling in (params.keys, params.values):
        for parameter in pooling.mlp[2].parameters():
            torch.nn.init.normal_(parameter)
    layer = replace(reference.layer, params=params)
    reference.run(method, *qkv, [reference.PROMPT, 20], layer).square().sum().backward()
    for name, parameter in params.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_nsa_reads_pooled_and_selected_blocks_and_the_window(reference) -> None:
    """After 1,003 tokens: 249 pooled blocks, 3 full blocks of 8 and 3 tokens of the own, and a window of 20."""
    footprint, token = NSA(8, 4, 8, 4, 20).footprint(reference.layer, 1, 1000, 3), reference.layer.kv_bytes
    assert (footprint.held.payload, footprint.read) == ((1003 + 249) * token, (249 + 27 + 20) * token)


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(
        ValueError, match=r"compress 30 and block 64 must be multiples of stride 16.*set method\.compress"
    ):
        NSA(compress=30)
    with pytest.raises(ValueError, match=r"set method\.topk to at least 3"):
        NSA(topk=2)
    with pytest.raises(ValueError, match="set both to at least 1"):
        MoBA(topk=0)
