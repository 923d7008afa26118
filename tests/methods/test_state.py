"""State is all there is: bytes, forks and snapshots are right because nothing else may live in it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kvfrontier.methods.state import Buf, Bytes, Foreign, Host, State, capacity, fork, measure, move, restore, snapshot


@dataclass
class Pair(State):
    a: Any
    b: Any = None


@dataclass
class Page(State):
    k: Tensor
    FROZEN = ("k",)


@given(st.integers(0, 1 << 40))
def test_capacity_holds_n_wastes_an_eighth_and_is_stable(n: int) -> None:
    c = capacity(n)
    assert n <= c <= max(n, n * 9 / 8)
    assert capacity(c) == c


@given(st.lists(st.integers(1, 70), max_size=12))
def test_a_buffer_allocates_by_its_length_alone(pieces: list[int]) -> None:
    buf, n = Buf.empty(1, 2, 0, 3), 0
    rows = torch.arange(sum(pieces) * 6, dtype=torch.float32).view(1, 2, -1, 3)
    for piece in pieces:
        buf.append(rows[:, :, n : n + piece])
        n += piece
        assert buf.x.shape[2] == capacity(n)
    assert torch.equal(buf.view(), rows)


def test_exact_buffers_have_no_slack() -> None:
    buf = Buf.empty(1, 1, 0, 4, exact=True)
    for _ in range(21):
        buf.append(torch.ones(1, 1, 1, 4))
    assert measure(buf) == Bytes(device=21 * 16)
    buf.set(buf.view()[:, :, 3:5])
    assert measure(buf) == Bytes(device=2 * 16)


def test_storage_is_counted_once_and_its_unused_part_is_slack() -> None:
    x = torch.zeros(100)
    assert measure(Pair(x, x)) == Bytes(device=400)
    assert measure(Pair(x[:10])) == Bytes(device=40, device_slack=360)
    assert measure(Pair(Host(torch.zeros(2)), torch.zeros(3))) == Bytes(device=12, host=8)
    assert measure(Pair(Foreign({"conv": torch.zeros(5)}))) == Bytes(device=20)


def test_a_state_that_layers_share_counts_once_with_its_slack() -> None:
    buf = Buf.empty(1, 1, 0, 4)
    buf.append(torch.ones(1, 1, 17, 4))
    assert measure([buf, buf]) == measure(buf) == Bytes(device=17 * 16, device_slack=16)


def test_nothing_can_hide() -> None:
    with pytest.raises(TypeError, match="may not live in a state"):
        measure(Pair(lambda: torch.zeros(3)))
    pair = Pair(torch.zeros(1))
    pair.hidden = torch.zeros(9)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="hidden"):
        measure(pair)


def test_a_fork_is_apart_but_for_what_is_frozen() -> None:
    shared = torch.ones(3)
    parent = Pair(Page(shared), [Buf(torch.ones(1, 1, 4, 1), 2), shared])
    child = fork(parent)
    child.b[0].append(torch.zeros(1, 1, 1, 1))
    child.b[1] += 1
    assert parent.b[0].n == 2
    assert torch.equal(parent.b[0].x, torch.ones(1, 1, 4, 1))
    assert torch.equal(shared, torch.ones(3))
    assert child.a.k is shared
    same = Pair(parent, parent)
    assert fork(same).a is fork(same).a or fork(same).a is not parent
    twin = fork(same)
    assert twin.a is twin.b


def test_snapshots_are_plain_data_and_come_back_whole() -> None:
    inner = Pair(torch.arange(3), {"x": (1, None, "s")})
    state = Pair([inner, inner, Host(torch.ones(2))], Buf(torch.ones(1, 1, 4, 1), 2))
    file = io.BytesIO()
    torch.save(snapshot(state), file)
    file.seek(0)
    back = restore(torch.load(file, weights_only=True))
    assert measure(back) == measure(state)
    assert back.a[0] is back.a[1]
    assert torch.equal(back.a[0].a, inner.a)
    assert back.a[0].b == inner.b
    back.b.x += 1
    assert torch.equal(state.b.x, torch.ones(1, 1, 4, 1))


def test_a_snapshot_cannot_name_another_class() -> None:
    with pytest.raises(TypeError, match="not a State"):
        restore({"number": 0, "class": "subprocess:Popen", "fields": {}})


def test_moving_copies() -> None:
    state = Pair(torch.ones(2))
    moved = move(state, "meta")
    assert moved.a.device.type == "meta"
    assert state.a.device.type == "cpu"


def test_a_buffer_made_in_inference_mode_can_be_continued_outside_it() -> None:
    buf = Buf.empty(1, 1, 0, 1)
    with torch.inference_mode():
        buf.append(torch.ones(1, 1, 17, 1))
    with torch.no_grad():
        buf.append(torch.zeros(1, 1, 1, 1))
    assert buf.view().sum() == 17


def test_a_buffer_concatenates_while_a_gradient_is_needed() -> None:
    buf = Buf.empty(1, 1, 0, 1)
    x = torch.ones(1, 1, 3, 1, requires_grad=True)
    for _ in range(2):
        buf.append(x * 2)
    buf.view().sum().backward()
    assert torch.equal(x.grad, torch.full((1, 1, 3, 1), 4.0))  # pyright: ignore[reportArgumentType]
