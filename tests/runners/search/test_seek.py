"""Which sizes are tried, against a search through all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvfrontier.runners.search.seek import largest


def lattice(start: int, most: int, step: int, least: int) -> set[int]:
    """Every size that may be the answer."""
    doubled = {start << i for i in range(most.bit_length()) if start << i <= most}
    return {min(start, most), most, *doubled, *(n for n in range(step, most, step) if n >= least)}


@given(st.data())
def test_it_finds_the_largest_that_fits_whatever_the_hints(data):
    step = data.draw(st.integers(1, 7))
    least = data.draw(st.integers(1, 9))
    start = data.draw(st.integers(least, 40))
    most = data.draw(st.integers(start, 300))
    wall = data.draw(st.integers(0, 320))
    hints = [n * step for n in data.draw(st.lists(st.integers(0, 40), max_size=2))]
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= wall

    found = largest(fits, start=start, most=most, step=step, least=least, hints=hints)
    assert found == max((n for n in lattice(start, most, step, least) if n <= wall), default=0)
    assert len(tried) == len(set(tried))
    assert all(least <= n <= most for n in tried)


def test_a_right_hint_ends_the_bisection_in_two_tries():
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 5300

    assert largest(fits, start=1024, most=1 << 20, step=128, hints=[5248, 5376]) == 5248
    assert tried == [1024, 2048, 4096, 8192, 5248, 5376]
    tried.clear()
    assert largest(fits, start=1024, most=1 << 20, step=128) == 5248
    assert tried == [1024, 2048, 4096, 8192, 6144, 5120, 5632, 5376, 5248]


def test_where_not_even_the_smallest_fits_nothing_is_found():
    assert largest(lambda _: False, start=1024, most=4096, step=512, least=33) == 0
