"""Blocks: owned once or shared by a common prefix, never lost; as many as the real store has."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfrontier.methods import Layer
from kvfrontier.methods.state import fork, measure
from kvfrontier.methods.stores.paged import PagedStore
from kvfrontier.runners.allocators.paged import Blocks, Paged
from kvfrontier.runners.allocators.requests import Request

LAYER = Layer(0, 1, 4, 2, 8, 8, 1.0)


@st.composite
def requests(draw, longest=40):
    prompt = draw(st.integers(1, longest))
    prefix = draw(st.integers(0, prompt))
    return Request(prompt, draw(st.integers(1, longest)), 0, draw(st.sampled_from("ab")) if prefix else "", prefix)


def check(paged):
    """What must be true at any time, from the block tables alone."""
    tables = {number: held.table for number, held in paged.held.items()}
    owners = Counter(block for table in tables.values() for block in table)
    assert dict(owners) == paged.blocks.owners
    assert sorted([*owners, *paged.blocks.free]) == list(range(paged.blocks.count))
    for table in tables.values():
        assert len(set(table)) == len(table)
    # Two own a block only where it holds the same tokens of the same text.
    for block, count in owners.items():
        places = {(paged.held[n].request.group, table.index(block)) for n, table in tables.items() if block in table}
        assert count == 1 or len(places) == 1
        if count > 1:
            full = min(h.request.prefix for h in paged.held.values() if block in h.table) // paged.block
            assert next(iter(places))[1] < full
    assert set(paged.names) <= set(owners)
    # Each token is stored once.
    held = paged.held.values()
    filled = [(h, i, min(paged.block, h.request.total - i * paged.block)) for h in held for i in range(len(h.table))]
    assert paged.promised == sum({h.table[i]: tokens for h, i, tokens in filled}.values())
    assert paged.allocated == paged.block * len(owners)
    assert paged.duplicated == paged.block * (sum(owners.values()) - len(owners))


@given(
    st.integers(1, 9), st.integers(1, 200), st.booleans(), st.sampled_from([0.0, 0.1]),
    st.lists(st.one_of(requests(), st.tuples(st.sampled_from(["grow", "release"]), st.integers(0, 99))), max_size=30),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_no_block_is_owned_twice_freed_twice_or_lost(block, capacity, sharing, watermark, acts):
    paged = Paged(capacity, block, watermark, sharing)
    for number, act in enumerate(acts):
        if isinstance(act, Request):
            free = len(paged.blocks.free)
            if not paged.admit(number, act, act.prompt):
                assert len(paged.blocks.free) == free and number not in paged.held
        elif paged.held:
            which = list(paged.held)[act[1] % len(paged.held)]
            if act[0] == "release":
                paged.release(which)
            elif paged.room(which) < paged.held[which].request.total:
                assert paged.grow(which) or not paged.blocks.free
        check(paged)
    for number in list(paged.held):
        paged.release(number)
    check(paged)
    assert len(paged.blocks.free) == paged.blocks.count
    assert (paged.allocated, paged.promised, paged.duplicated) == (0, 0, 0)
    assert not paged.prefixes


def test_a_block_is_not_given_back_twice():
    blocks = Blocks(2)
    block = blocks.take()
    blocks.share(block)
    assert not blocks.give(block)
    assert blocks.give(block)
    with pytest.raises(ValueError, match="given back before"):
        blocks.give(block)


def test_a_common_prefix_is_stored_once_and_its_last_block_copied():
    paged = Paged(100, block=4, watermark=0)
    for number in range(3):
        assert paged.admit(number, Request(12, 4, group="a", prefix=10), 13)
    # Two full blocks of the prefix in common, and two each: tokens 8 to 12.
    assert paged.allocated == 4 * (2 + 3 * 2)
    tables = [held.table for held in paged.held.values()]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({table[2] for table in tables}) == 3
    paged.release(0)
    assert paged.allocated == 4 * (2 + 2 * 2)


def test_a_longer_prefix_of_the_group_goes_on_where_the_shorter_ends():
    """An agent's trace: each turn begins with all of the one before."""
    paged = Paged(1000, block=4, watermark=0)
    for number, prefix in enumerate((8, 16, 24)):
        assert paged.admit(number, Request(prefix, 1, group="trace", prefix=prefix), prefix)
    assert paged.allocated == 24


def test_the_watermark_is_kept_free_only_while_someone_runs():
    paged = Paged(10, block=1, watermark=0.2)
    assert paged.admit(0, Request(5, 5), 6)
    assert not paged.admit(1, Request(2, 1), 3)
    paged.release(0)
    assert paged.admit(1, Request(9, 1), 10)


@given(
    st.sampled_from([1, 3, 4, 16]), st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=4),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_real_store_holds_as_many_blocks_as_the_simulated(block, prefix, texts):
    """Children of one prefix, each with a rest of a prompt and an output: forks of the store, requests of a group."""
    store, simulated = PagedStore(block), Paged(10_000, block, watermark=0)

    def rows(n):
        return torch.zeros(1, 2, n, 8)

    parent = store.init(LAYER, 1, False)
    store.append(parent, rows(prefix), rows(prefix))
    children = []
    for number, (rest, output) in enumerate(texts):
        child = fork(parent)
        if rest:
            store.append(child, rows(rest), rows(rest))
        children.append(child)
        assert simulated.admit(number, Request(prefix + rest, output, 0, "one", prefix), prefix + rest)
    for step in range(max(output for _, output in texts) + 1):
        for number, (child, (_, output)) in enumerate(zip(children, texts, strict=True)):
            if 0 < step <= output:
                store.append(child, rows(1), rows(1))
                if store.n(child) > simulated.room(number):
                    assert simulated.grow(number)
            assert child.table.shape[1] == len(simulated.held[number].table)
        # Storages that forks share are counted once.
        keys_and_values = measure(children).live - sum(child.table.nbytes for child in children)
        assert keys_and_values == simulated.allocated * LAYER.kv_bytes
