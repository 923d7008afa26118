"""InfLLM against its formula, token by token: which blocks are found, by what, and where their keys stand."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Layer
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.linear import LinearPositions
from kvfrontier.methods.retrieval.blocks import BlockMemory
from kvfrontier.methods.retrieval.infllm import InfLLM
from kvfrontier.methods.selection.snapkv import SnapKVSelection


@pytest.mark.parametrize("positions", ["in_cache", "original", "linear"])
@pytest.mark.parametrize(
    ("window", "sinks", "block", "blocks", "representatives"), [(16, 3, 4, 2, 2), (12, 0, 8, 1, 3), (8, 2, 5, 3, 1)]
)
def test_infllm(
    reference, qkv, positions: str, window: int, sinks: int, block: int, blocks: int, representatives: int, chunks
) -> None:
    q, k, v = qkv
    group, in_cache = reference.HQ // reference.HKV, positions == "in_cache"
    places = torch.arange(reference.T)[None] / (4 if positions == "linear" else 1)
    stored_q, stored_k = (x if in_cache else reference.rope.apply(x, places) for x in (q, k))

    def at(x: Tensor, position: int) -> Tensor:
        """Keys or queries [..., D] in a place of the cache, or where they were in the text."""
        return (
            reference.rope.apply(x.reshape(1, -1, 1, reference.D), torch.tensor([[position]])).view_as(x)
            if in_cache
            else x
        )

    @functools.cache
    def mean_key(g: int, b: int) -> Tensor:
        """Of the representatives of block b, as they were chosen when the token after the block left."""
        first = sinks + b * block
        made = sinks + window + (b + 1) * block  # the query that pushes that token out; those before it have voted
        over = made // block * block
        local = range(max(0, over - max(1, window // block) * block), over)
        heads = range(g * group, (g + 1) * group)
        votes = torch.stack([stored_q[0, h, j] for j in local for h in heads]).sum(0)
        scores = stored_k[0, g, first : first + block] @ votes
        best = scores.topk(representatives).indices + first
        return at(stored_k[0, g, best].mean(0), 0)

    @functools.cache
    def looked_up(t: int) -> list[int]:
        """Blocks that query t attends to, of those made."""
        gone = max(0, t + 1 - sinks - window)
        query = at(stored_q[0, :, t], 1 + sinks + window - 1)
        sim = {
            b: sum(query[h] @ mean_key(h // group, b) for h in range(reference.HQ))
            for b in range(max(0, gone - 1) // block)
        }
        return sorted(sim, key=sim.__getitem__, reverse=True)[:blocks]

    def output(h: int, g: int, t: int) -> Tensor:
        gone = max(0, t + 1 - sinks - window)
        in_blocks = max(0, gone - 1) // block * block
        far = [sinks + b * block + i for b in looked_up(t) for i in range(block)]
        far += range(sinks + in_blocks, sinks + gone)
        near = [s for s in range(t + 1) if s < sinks or s >= sinks + gone]
        keys = [at(stored_k[0, g, s], 0) for s in far] + [at(stored_k[0, g, s], 1 + i) for i, s in enumerate(near)]
        query = at(stored_q[0, h, t], len(near))
        return reference.attend(query, torch.stack(keys), v[0, g, far + near])

    method = InfLLM(window, sinks, block, blocks, representatives, "in_cache" if in_cache else "original")
    if positions == "linear":
        method = replace(method, positions=LinearPositions(4.0))
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_with_blocks_for_all_and_original_positions_it_is_dense(reference, qkv, chunks: list[int]) -> None:
    """Nothing is lost: what has left is all looked up."""
    everything = InfLLM(window=8, sinks=2, block=4, blocks=1000, positions="original")
    got, dense = (reference.run(method, *qkv, chunks) for method in (everything, Dense()))
    torch.testing.assert_close(got, dense, atol=3e-6, rtol=1e-5)


def test_until_something_leaves_it_is_dense(reference, qkv, chunks: list[int]) -> None:
    got, dense = (reference.run(method, *qkv, chunks) for method in (InfLLM(window=reference.T), Dense()))
    torch.testing.assert_close(got, dense, atol=1e-5, rtol=1e-5)


def test_blocks_are_the_hosts_and_few_of_them_move() -> None:
    layer = Layer(0, 1, 4, 2, 32, 32, 1.0)
    method, token = InfLLM(window=64, sinks=4, block=16, blocks=3, representatives=2), layer.kv_bytes
    for n in (1000, 4 + 64 + 16 * 10, 4 + 64 + 16 * 10 + 1):
        gone = n - 68
        made = (gone - 1) // 16
        footprint = method.footprint(layer, 1, n)
        assert footprint.held.host == made * 16 * token
        index, votes = made * 2 * 32 * 4, 2 * 32 * 4
        assert footprint.held.device == (68 + gone - made * 16) * token + index + 5 * votes
        assert footprint.read == (68 + gone - made * 16 + 3 * 16) * token + index + votes
    assert not method.bounded


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.representatives"):
        InfLLM(block=4, representatives=5)
    with pytest.raises(ValueError, match=r"method\.blocks"):
        InfLLM(blocks=0)
    with pytest.raises(ValueError, match=r"method\.window"):
        InfLLM(window=0)
    with pytest.raises(ValueError, match=r"one by one, in order"):
        Cached(SnapKVSelection(), memory=BlockMemory())
