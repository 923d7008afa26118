"""Ticks that a reader can count by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfrontier.analysis.figures.scales import round_numbers


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (46, 316, [50, 100, 150, 200, 250, 300]),
        (0.021, 2.9, [0.05, 0.1, 0.2, 0.5, 1, 2]),
        (3e-4, 1.1, [1e-3, 1e-2, 0.1, 1]),
        (61, 64, [61, 61.5, 62, 62.5, 63, 63.5, 64]),
    ],
)
def test_round_numbers(low, high, ticks):
    assert round_numbers(low, high, 7) == pytest.approx(ticks)


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e9))
def test_ticks_are_inside_few_and_rising(low, reach):
    found = round_numbers(low, low * reach)
    assert found == sorted(set(found))
    assert 1 <= len(found) <= 8
    assert all(low * 0.999 <= v <= low * reach * 1.001 for v in found)
