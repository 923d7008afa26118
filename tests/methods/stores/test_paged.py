"""Blocks behind a table: the same attention, shared by forks, with no more unused than the rest of the last block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kvfrontier.methods import Dense, Layer
from kvfrontier.methods.axes import Span
from kvfrontier.methods.state import Bytes, fork, measure
from kvfrontier.methods.stores.paged import LONG, Paged, PagedStore
from kvfrontier.runners.conformance import tiny, tokens
from kvfrontier.runners.session import Session

LAYER = Layer(0, 1, 4, 2, 8, 8, 1.0)
ROW = LAYER.kv_bytes


def rows(n: int, batch: int = 1) -> Tensor:
    """[batch, 2, n, 8], all different."""
    return torch.arange(batch * 2 * n * 8, dtype=torch.float32).view(batch, 2, n, 8)


def filled(n: int, block: int, pieces: int = 1, batch: int = 1) -> tuple[PagedStore, Any, Tensor]:
    store, x = PagedStore(block), rows(n, batch)
    state = store.init(LAYER, batch, False)
    for piece in x.split(-(-n // pieces), 2):
        store.append(state, piece, -piece)
        store.settle(state)
    return store, state, x


@pytest.mark.parametrize("block", [1, 4, 16])
def test_paged_attention_is_attention(reference, block: int, chunks: list[int]) -> None:
    q, k, v = reference.qkv(batch=2)
    qr, kr = reference.rotate(q), reference.rotate(k)
    got = reference.run(Paged(block), q, k, v, chunks)
    for b in range(2):
        expected = reference.by_token(
            lambda h, g, t, b=b: reference.attend(qr[b, h, t], kr[b, g, : t + 1], v[b, g, : t + 1])
        )
        torch.testing.assert_close(got[b : b + 1], expected, atol=2e-6, rtol=1e-5)


@given(
    st.sampled_from([1, 3, 4]),
    st.lists(st.one_of(st.integers(1, 40), st.tuples(st.integers(0, 60), st.integers(1, 9))), max_size=9),
)
@settings(max_examples=60, deadline=None)
def test_tokens_come_and_leave_as_from_a_list(block: int, acts: list[Any]) -> None:
    """An integer appends so many tokens; a pair drops that many from a slot."""
    store, state, source, expected = PagedStore(block), PagedStore(block).init(LAYER, 2, False), rows(400, 2), []
    came = 0
    for act in acts:
        n = len(expected)
        if isinstance(act, int):
            new = source[:, :, came : came + act]
            store.append(state, new, -new)
            store.settle(state)
            expected += range(came, came + act)
            came += act
        elif n:
            begin = act[0] % n
            store.drop(state, begin, min(n, begin + act[1]))
            expected[begin : begin + act[1]] = []
        n = len(expected)
        assert store.n(state) == n
        k, v = store.read(state, 0, n)
        assert torch.equal(k, source[:, :, expected])
        assert torch.equal(v, -k)
        blocks = -(-n // block)
        assert state.table.shape == (2, blocks)
        held = measure(state)
        assert held == store.footprint(LAYER, 2, n, False, False).held
        assert held == Bytes(device=2 * (n * ROW + 4 * blocks), device_slack=2 * (blocks * block - n) * ROW)


def test_single_slots_are_found_through_the_table() -> None:
    store, state, x = filled(75, 2, pieces=9, batch=2)
    slots = torch.randint(0, 75, (2, 2, 30), generator=torch.Generator().manual_seed(0))
    k, v = store.gather(state, slots)
    for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(30)).tolist():
        assert torch.equal(k[b, h, i], x[b, h, slots[b, h, i]])
    assert torch.equal(v, -k)
    store.take(state, torch.arange(0, 75, 3).expand(2, 2, -1))
    assert torch.equal(store.read(state, 0, 25)[0], x[:, :, ::3])


def test_a_decoded_token_reads_long_stretches_where_they_lie() -> None:
    """No key of a prompt is copied for a decoded token, and of what was decoded only the newest short blocks."""
    store, state, _ = filled(1000, 4)
    for piece in rows(300).split(1, 2):
        store.append(state, piece, piece)
        store.settle(state)
    stored = {slab.k.untyped_storage().data_ptr() for slab in state.full}
    spans = store._cut(state, Span(0, 1300), T=1)
    copied = [
        s.end - s.begin
        for s in spans
        if store.read(state, s.begin, s.end)[0].untyped_storage().data_ptr() not in stored
    ]
    assert sum(copied) <= LONG * 4
    assert len(spans) <= 2 + 300 // (LONG * 4) + 1


def test_forks_share_full_blocks() -> None:
    """The group holds what both read once, and each block that one of them wrote for itself."""
    ids, block, prompt, new = tokens(1, 200), 16, 150, 20
    with torch.no_grad(), Session(tiny(), Paged(block)) as parent:
        parent.prefill(ids[:, :prompt])
        child = parent.fork()
        alone, layers = parent.state_bytes(), len(parent.layers)
        together = measure([parent.state, child.state])
        kv = parent.layers[0].kv_bytes
        shared = layers * kv * (prompt // block * block)
        assert together.live == 2 * alone.live - shared
        assert child.state_bytes() == alone

        other = Session(tiny(), Dense())
        expected = {}
        with other:
            for name, i in (("parent", prompt), ("child", prompt + new)):
                other.reset()
                other.prefill(ids[:, :prompt])
                expected[name] = [other.decode(ids[:, j : j + 1]) for j in range(i, i + new)]
        for step in range(new):
            for name, session, i in (("parent", parent, prompt), ("child", child, prompt + new)):
                logits = session.decode(ids[:, i + step : i + step + 1])
                torch.testing.assert_close(logits, expected[name][step], atol=1e-4, rtol=1e-4)
        both = measure([parent.state, child.state])
        assert both.live == parent.state_bytes().live + child.state_bytes().live - shared


def test_a_fork_writes_beside_what_it_shares() -> None:
    store, parent, x = filled(37, 4)
    child = fork(parent)
    assert child.full[0].k is parent.full[0].k
    assert child.last.k.x is not parent.last.k.x
    store.append(child, x[:, :, :9] + 0.5, x[:, :, :9])
    store.drop(child, 3, 5)
    assert torch.equal(store.read(parent, 0, 37)[0], x)


def test_a_block_needs_a_token() -> None:
    with pytest.raises(ValueError, match=r"method\.block"):
        Paged(block=0)
