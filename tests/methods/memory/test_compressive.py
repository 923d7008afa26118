"""The Compressive Transformer's two queues against its description."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached
from kvfrontier.methods.memory.compressive import Compressive, CompressiveMemory, Pooling
from kvfrontier.methods.selection.block_window import BlockWindowSelection
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.selection.window import WindowSelection

WINDOW, BLOCK, RATE = 10, 12, 3


def pooled(group: Tensor, pooling: Pooling, weight: Tensor | None) -> Tensor:
    """One slot of RATE tokens [RATE, D]."""
    if weight is not None:
        return sum(group[j] @ weight[j] for j in range(RATE))  # pyright: ignore[reportReturnType]
    if pooling == "strided":
        return group[-1]
    return torch.stack([max(c) if pooling == "max" else sum(c) / RATE for c in group.T])  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("positions", ["in_cache", "original"])
@pytest.mark.parametrize("compressed", [7, 100])
@pytest.mark.parametrize("pooling", ["mean", "max", "strided", "conv", "untrained conv"])
def test_compressive(reference, qkv, pooling: Any, compressed: int, positions: Any, chunks: list[int]) -> None:
    q, k, v = qkv
    trained, pooling = pooling == "conv", pooling.removeprefix("untrained ")
    method, layer = Compressive(WINDOW, BLOCK, RATE, compressed, pooling, positions), reference.layer
    params: Any = method.module(layer)
    assert (params is not None) == method.needs_training == (pooling == "conv")
    if trained:
        g = torch.Generator().manual_seed(1)
        for p in params.parameters():
            p.data = torch.randn(p.shape, generator=g) / reference.D**0.5
        layer = replace(layer, params=params)
    in_cache = positions == "in_cache"
    x, weights = (k if in_cache else reference.rotate(k), v), (params and params.k, params and params.v)

    @functools.cache
    def slots(g: int, first: int) -> list[Tensor]:
        """Keys and values of the slots once the first tokens have left."""
        return [
            torch.stack([pooled(x[g, i : i + RATE], pooling, w[g] if trained else None) for i in range(0, first, RATE)])
            for x, w in zip((x[0][0], x[1][0]), weights, strict=True)
        ]

    def output(h: int, g: int, t: int) -> Tensor:
        first = max(0, t - WINDOW) // BLOCK * BLOCK
        keys, values = (x[i][0, g, first : t + 1] for i in (0, 1))
        if first:
            keys, values = (
                torch.cat([s[-compressed:], y]) for s, y in zip(slots(g, first), (keys, values), strict=True)
            )
        if not in_cache:
            return reference.attend(reference.rotate(q)[0, h, t], keys, values)
        keys = reference.rope.apply(keys[None, None], torch.arange(len(keys))[None])[0, 0]
        query = reference.rope.apply(q[:, h : h + 1, t : t + 1], torch.tensor([[len(keys) - 1]]))[0, 0, 0]
        return reference.attend(query, keys, values)

    with torch.no_grad():
        got = reference.run(method, q, k, v, chunks, layer)
        torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_a_convolution_begins_as_the_mean(reference, qkv) -> None:
    _, k, v = qkv
    memory = CompressiveMemory(RATE, pooling="conv")
    layer = replace(reference.layer, params=memory.module(reference.layer))
    mean = CompressiveMemory(RATE).encode(k, v, reference.layer)
    for got, expected in zip(memory.encode(k, v, layer), mean, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_gradient_trains_the_convolution(reference, qkv) -> None:
    method = Compressive(WINDOW, BLOCK, RATE, pooling="conv")
    layer = replace(reference.layer, params=method.module(reference.layer))
    reference.run(method, *qkv, [70, 20], layer).square().sum().backward()
    assert layer.params is not None
    for name, weight in layer.params.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "selection", [WindowSelection(16), BlockWindowSelection(16, 10), SnapKVSelection()], ids=lambda s: type(s).__name__
)
def test_tokens_that_do_not_leave_in_groups_are_refused(selection: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("method/selection=block_window with a block that is a multiple")):
        Cached(selection, memory=CompressiveMemory(4))
