"""The ragged store: attention over heads of any lengths, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Dense, Layer, SnapKV, Step
from kvfrontier.methods.attend.eager import attend
from kvfrontier.methods.axes import Span
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.adakv import AdaKVSelection
from kvfrontier.methods.stores.dense import DenseStore
from kvfrontier.methods.stores.ragged import BLOCK, RaggedStore

HKV, GROUP, D, N = 4, 2, 8, 200
LAYER = Layer(0, 1, HKV * GROUP, HKV, D, D, 0.4)


@pytest.mark.parametrize(
    "lengths",
    [
        [(100, 100, 100, 100), (200, 64, 8, 128)],
        [(0, 200, 199, 1), (200, 0, 0, 200)],
        [(BLOCK, 2 * BLOCK, 0, 8), (BLOCK + 1, BLOCK - 1, BLOCK, 8)],
        [(1, 1, 1, 1), (0, 0, 0, 4)],
    ],
)
@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_each_head_attends_to_its_own_tokens(lengths: list[tuple[int, ...]], T: int, softcap: float | None) -> None:
    """Kept tokens and those that came later, against softmax over each head's list; a head may have kept none."""
    g = torch.Generator().manual_seed(1)
    k, v, new_k, new_v = (torch.randn(2, HKV, n, D, generator=g) * 3 for n in (N, N, 3 + T, 3 + T))
    q = torch.randn(2, HKV * GROUP, T, D, generator=g)
    layer = Layer(0, 1, HKV * GROUP, HKV, D, D, 0.4, softcap=softcap)
    store = RaggedStore()
    state = store.init(layer, 2, bounded=False)
    for piece in (slice(0, 120), slice(120, N)):
        store.append(state, k[:, :, piece], v[:, :, piece])
    kept = [[torch.randperm(N, generator=g)[:m].sort().values for m in row] for row in lengths]
    store.take(state, torch.stack([torch.cat([h * N + s for h, s in enumerate(row)]) for row in kept]))
    store.append(state, new_k, new_v)
    m = sum(lengths[0]) // HKV
    assert store.n(state) == m + 3 + T
    parts = store.attend(state, q, Span(0, m + 3 + T), lambda x, _: x, layer, attend, lse=True)
    total = torch.stack([lse for _, lse in parts]).logsumexp(0)
    got = sum(o * torch.exp(lse - total).unsqueeze(-1) for o, lse in parts)
    assert isinstance(got, Tensor)
    for b in range(2):
        for h in range(HKV * GROUP):
            own, at = kept[b][h // GROUP], (b, h // GROUP)
            for t in range(T):
                keys = torch.cat([k[at][own], new_k[at][: 4 + t]])
                values = torch.cat([v[at][own], new_v[at][: 4 + t]])
                x = keys @ q[b, h, t] * 0.4
                x = x if softcap is None else softcap * torch.tanh(x / softcap)
                torch.testing.assert_close(got[b, h, t], x.softmax(0) @ values, atol=3e-6, rtol=1e-5)


def test_while_all_heads_hold_the_same_it_is_the_dense_store(reference, qkv, chunks: list[int]) -> None:
    q, k, v = qkv
    for dense in (Dense(), SnapKV(24, 8, 5), Cached(SnapKV(24, 8, 5).selection, positions=InCachePositions())):
        ragged = Cached(dense.selection, RaggedStore(), positions=dense.positions)
        torch.testing.assert_close(
            reference.run(ragged, q, k, v, chunks), reference.run(dense, q, k, v, chunks), atol=3e-6, rtol=1e-5
        )


def test_heads_that_differ_have_no_slots_in_common() -> None:
    store = RaggedStore()
    state = store.init(LAYER, 1, bounded=False)
    store.append(state, torch.randn(1, HKV, 4, D), torch.randn(1, HKV, 4, D))
    store.take(state, torch.tensor([[0, 1, 2, 12]]))
    assert store.n(state) == 1
    for refused in (lambda: store.read(state, 0, 1), lambda: store.drop(state, 0, 1)):
        with pytest.raises(ValueError, match="no slots in common"):
            refused()


def test_a_token_reads_the_lengths_of_the_heads() -> None:
    """Four of them in int32, beside what is held of 50 tokens."""
    footprint = RaggedStore().footprint(LAYER, 3, 50, sealed=True, bounded=True)
    assert footprint.read == 50 * LAYER.kv_bytes + HKV * 4
    assert footprint.held.live == 3 * footprint.read


def test_a_scored_pass_is_forgotten(reference, qkv) -> None:
    """Tokens of phase "score" are dropped again behind heads of different lengths."""
    q, k, v = qkv
    method = Cached(AdaKVSelection(24, 8, 5), RaggedStore())
    state = method.init_state(reference.layer, 1)
    method.attend(q, k, v, state, reference.layer, Step(torch.arange(reference.T)[None], 0))
    method.seal(state, reference.layer)
    before = state.store.k.view().clone()
    method.attend(q, k, v, state, reference.layer, Step(torch.arange(reference.T)[None], reference.T, "score"))
    assert torch.equal(state.store.k.view(), before)


def test_what_cannot_be_ragged_is_refused() -> None:
    with pytest.raises(ValueError, match="method/store=ragged"):
        Cached(AdaKVSelection(), DenseStore())
    with pytest.raises(ValueError, match="positions"):
        Cached(AdaKVSelection(), RaggedStore(), positions=InCachePositions())
