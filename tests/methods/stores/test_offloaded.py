"""In host memory and the same: bit by bit the resident cache, with nothing on the device between calls."""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods import Dense
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.state import measure
from kvfrontier.methods.stores.offloaded import Offloaded, OffloadedStore
from kvfrontier.runners.conformance import outputs, tiny, tokens
from kvfrontier.runners.session import Session

LAYER = Layer(0, 1, 4, 2, 8, 8, 1.0)


@pytest.mark.parametrize("chunk", [None, 37, 1])
def test_offloaded_equals_resident_bit_by_bit(chunk: int | None) -> None:
    ids = tokens(2, 190)
    assert torch.equal(outputs(Offloaded(), ids, chunk), outputs(Dense(), ids, chunk))


def test_an_offloaded_window_equals_a_resident_one_bit_by_bit() -> None:
    ids, window = tokens(1, 190), WindowSelection(24, 4)
    assert torch.equal(outputs(Cached(window, OffloadedStore()), ids, 64), outputs(Cached(window), ids, 64))


def test_between_calls_all_bytes_are_the_hosts() -> None:
    ids = tokens(1, 170)
    with torch.no_grad(), Session(tiny(), Offloaded()) as session, Session(tiny(), Dense()) as resident:
        for act in ("prefill", "decode"):
            for one in (session, resident):
                getattr(one, act)(ids[:, :150] if act == "prefill" else ids[:, 150:])
            held, there = session.state_bytes(), resident.state_bytes()
            assert held.device == held.device_slack == 0
            assert (held.host, held.host_slack) == (there.device, there.device_slack)
            assert session.footprint().read == resident.footprint().read == there.device


def test_a_layer_is_brought_while_the_one_before_it_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the second layer's turn its keys are on the device already, and never those of more than two layers."""
    ids, seen = tokens(1, 160), []
    append = OffloadedStore.append

    def spy(self, state, k, v):
        seen.append((state.lane, state.here is not None, [s.store.here is not None for s in session.states]))
        append(self, state, k, v)

    with torch.no_grad(), Session(tiny(), Offloaded()) as session:
        session.prefill(ids[:, :150])
        monkeypatch.setattr(OffloadedStore, "append", spy)
        session.decode(ids[:, 150:])
    assert seen == [(0, False, [False, True]), (1, True, [False, True])]


def test_single_slots_move_alone() -> None:
    store = OffloadedStore()
    state = store.init(LAYER, 1, False)
    x = torch.randn(1, 2, 50, 8, generator=torch.Generator().manual_seed(0))
    store.append(state, x, -x)
    store.settle(state)
    slots = torch.tensor([[[3, 7, 49], [0, 1, 2]]])
    k, v = store.gather(state, slots)
    assert torch.equal(k[0, 0], x[0, 0, [3, 7, 49]])
    assert torch.equal(v[0, 1], -x[0, 1, :3])
    assert measure(state).device == 0
    assert measure(state).host == 50 * LAYER.kv_bytes


def test_what_a_call_only_scores_leaves_nothing_behind() -> None:
    store = OffloadedStore()
    state = store.init(LAYER, 1, False)
    x = torch.randn(1, 2, 50, 8, generator=torch.Generator().manual_seed(0))
    store.append(state, x, -x)
    store.settle(state)
    store.prefetch(state)
    store.append(state, x[:, :, :7], x[:, :, :7])
    assert torch.equal(store.read(state, 48, 57)[0], torch.cat([x[:, :, 48:], x[:, :, :7]], 2))
    store.drop(state, 50, 57)
    assert measure(state) == store.footprint(LAYER, 1, 50, True, False).held
    assert torch.equal(store.read(state, 0, 50)[1], -x)
