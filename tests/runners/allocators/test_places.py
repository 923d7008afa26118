"""Where stretches lie: never two on one address, nothing lost, and none refused for which there is room."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfrontier.runners.allocators.buddy import Buddy
from kvfrontier.runners.allocators.first_fit import FirstFit

#: An integer takes a stretch of that length; a pair gives back the one at that place of all that are taken.
ACTS = st.lists(st.one_of(st.integers(1, 40), st.tuples(st.integers(0, 99))), max_size=40)


def free_runs(used, align):
    """Addresses and lengths of free stretches of `align` tokens at multiples of it, from a map of every address."""
    return [a for a in range(0, len(used) - align + 1, align) if not any(used[a : a + align])]


def follow(place, capacity, acts, could):
    """Run the acts beside a map of every address. `could(used, length)` are the addresses that would do."""
    used, taken = [False] * capacity, {}
    for act in acts:
        if isinstance(act, int):
            length, address = place.rounded(act), place.take(act)
            assert (address is not None) == bool(could(used, length))
            if address is not None:
                assert address in could(used, length)
                used[address : address + length] = [True] * length
                taken[address] = length
        elif taken:
            address = sorted(taken)[act[0] % len(taken)]
            length = taken.pop(address)
            place.give(address)
            used[address : address + length] = [False] * length
    return taken


@given(st.integers(1, 100), ACTS)
@settings(max_examples=100, deadline=None)
def test_the_buddy_system_takes_an_aligned_power_of_two_wherever_one_is_free(capacity, acts):
    place = Buddy(capacity)
    taken = follow(place, capacity, acts, lambda used, length: free_runs(used, length))
    free = sum(size * len(addresses) for size, addresses in place.free.items())
    assert free + sum(taken.values()) == capacity
    for address in taken:
        place.give(address)
    assert {s: a for s, a in place.free.items() if a} == {s: a for s, a in Buddy(capacity).free.items() if a}


@given(st.integers(1, 100), ACTS)
@settings(max_examples=100, deadline=None)
def test_first_fit_takes_the_lowest_hole_that_is_long_enough(capacity, acts):
    def lowest(used, length):
        return [a for a in range(len(used) - length + 1) if not any(used[a : a + length])][:1]

    place = FirstFit(capacity)
    taken = follow(place, capacity, acts, lowest)
    assert sum(length for _, length in place.holes) + sum(taken.values()) == capacity
    for address in taken:
        place.give(address)
    assert place.holes == [(0, capacity)]


@pytest.mark.parametrize("kind", [Buddy, FirstFit])
def test_nothing_is_given_back_twice(kind):
    place = kind(16)
    address = place.take(3)
    place.give(address)
    with pytest.raises(ValueError, match="given back before"):
        place.give(address)


def test_a_buddy_is_split_and_joined_by_halves():
    place = Buddy(8)
    assert [place.take(n) for n in (3, 1, 2)] == [0, 4, 6]
    assert place.take(2) is None
    assert place.take(1) == 5
    for address in (4, 5, 6):
        place.give(address)
    assert place.take(4) == 4
