"""Quest against its formula: which pages a decoded token reads, and what that costs."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Layer
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.linear import LinearPositions
from kvfrontier.methods.retrieval.quest import Quest, QuestSelection
from kvfrontier.methods.state import measure
from kvfrontier.methods.stores.offloaded import OffloadedStore
from kvfrontier.methods.stores.paged import PagedStore


@pytest.mark.parametrize(("page", "pages"), [(4, 3), (7, 2), (4, 1)])
def test_a_decoded_token_reads_the_pages_with_the_highest_bounds(
    reference, qkv, page: int, pages: int, chunks: list[int]
) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    group = reference.HQ // reference.HKV

    @functools.cache
    def bound(g: int, t: int, p: int) -> Tensor:
        keys = kr[0, g, p * page : (p + 1) * page]
        heads = qr[0, g * group : (g + 1) * group, t]
        return torch.stack([(head * keys).amax(0).sum() for head in heads]).max()

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1))
        if t >= reference.PROMPT:
            last = t // page  # the page of this token
            bounds = {p: bound(g, t, p) for p in range(last)}
            best = sorted(bounds, key=bounds.__getitem__, reverse=True)[: pages - 1]
            seen = [s for s in seen if s // page in best or s // page == last]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    expected = reference.by_token(output)
    for store in (None, PagedStore(4), OffloadedStore()):
        method = Quest(page, pages, skip_layers=0)
        method = replace(method, store=store) if store else method
        got = reference.run(method, q, k, v, chunks)
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


def test_pages_are_compared_and_read_at_stretched_positions(reference, qkv, chunks: list[int]) -> None:
    """One page and the last, at positions divided by four."""
    q, k, v = qkv
    at = torch.arange(reference.T)[None] / 4
    qr, kr = reference.rope.apply(q, at), reference.rope.apply(k, at)
    group, page = reference.HQ // reference.HKV, 6

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1))
        if t >= reference.PROMPT:
            heads, last = qr[0, g * group : (g + 1) * group, t], t // page
            bounds = [
                max(float((head * kr[0, g, p * page : (p + 1) * page]).amax(0).sum()) for head in heads)
                for p in range(last)
            ]
            best = max(range(last), key=bounds.__getitem__)
            seen = [s for s in seen if s // page in (best, last)]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    method = Cached(QuestSelection(page, 2, 0), positions=LinearPositions(4.0))
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_with_pages_for_all_it_is_dense(reference, qkv, chunks: list[int]) -> None:
    everything = Quest(page=4, pages=reference.T // 4 + 1, skip_layers=0)
    got, dense = (reference.run(method, *qkv, chunks) for method in (everything, Dense()))
    torch.testing.assert_close(got, dense, atol=3e-6, rtol=1e-5)


def test_the_first_layers_read_all(reference, qkv, chunks: list[int]) -> None:
    """And keep nothing but keys and values."""
    got, dense = (reference.run(method, *qkv, chunks) for method in (Quest(4, 2, skip_layers=1), Dense()))
    torch.testing.assert_close(got, dense, atol=3e-6, rtol=1e-5)
    assert Quest(4, 2, skip_layers=1).footprint(reference.layer, 1, 90) == Dense().footprint(reference.layer, 1, 90)


def test_reading_costs_the_bounds_and_the_pages_read() -> None:
    layer = Layer(5, 6, 4, 2, 32, 32, 1.0)
    method, token, bounds = Quest(page=16, pages=8), layer.kv_bytes, 2 * 2 * 32 * 4
    for n in (1000, 1008, 1009):
        full = (n - 1) // 16
        assert method.footprint(layer, 3, n).read == token * (7 * 16 + n - full * 16) + bounds * full
    assert method.footprint(layer, 3, 100).read == token * 100
    assert method.footprint(layer, 1, 1000).held.device == 1000 * token + 62 * bounds
    offloaded = replace(method, store=OffloadedStore()).footprint(layer, 1, 1000)
    assert offloaded.held.host == 1000 * token
    assert offloaded.held.device == 62 * bounds


def test_an_offloaded_cache_moves_only_the_pages_read(reference, qkv) -> None:
    _, k, v = qkv
    method = Cached(QuestSelection(4, 3, 0), OffloadedStore())
    state = method.init_state(reference.layer, 1)
    method.adopt(state, reference.layer, k, v, None)
    method.seal(state, reference.layer)
    method.prefetch(state, reference.layer)
    assert state.store.here is None
    assert measure(state) == method.footprint(reference.layer, 1, reference.T).held


@pytest.mark.parametrize(("field", "value"), [("page", 0), ("pages", 0), ("skip_layers", -1)])
def test_values_that_make_no_sense_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        Quest(**{field: value})
