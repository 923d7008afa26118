"""Words of a figure do not overlap."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfrontier.analysis.figures.labels import Tag, place, spread

FRAME = (0.0, 0.0, 320.0, 300.0)


def overlap(a: Tag, p, b: Tag, q) -> bool:
    return abs(p.x - q.x) < (a.width + b.width) / 2 - 1e-6 and abs(p.y - q.y) < (a.height + b.height) / 2 - 1e-6


@pytest.mark.parametrize("step", [0.0, 2.0, 9.0, 25.0])
def test_labels_of_a_crowd_do_not_overlap(step):
    tags = [Tag(150 + step * (i % 4), 150 + step * (i // 4), 50, 9) for i in range(13)]
    places = place(tags, FRAME)
    for (a, p), (b, q) in combinations(zip(tags, places, strict=True), 2):
        assert not overlap(a, p, b, q)
    for tag, found in zip(tags, places, strict=True):
        assert tag.width / 2 <= found.x <= 320 - tag.width / 2
        assert tag.height / 2 <= found.y <= 300 - tag.height / 2


def test_a_label_alone_stands_beside_its_point_without_a_line():
    (found,) = place([Tag(100, 100, 40, 9)], FRAME)
    assert found.leader is None
    assert found.x == pytest.approx(126, abs=1)
    assert place([], FRAME) == []


def test_a_label_apart_from_its_point_has_a_line_to_it():
    tags = [Tag(150, 150, 60, 9)] * 9
    assert any(p.leader and p.leader[0] == (150, 150) for p in place(tags, FRAME))


@given(st.lists(st.floats(0, 100), max_size=12))
def test_spread_heights_keep_their_order_and_distance(wanted):
    found = spread(wanted, 8, 0, 100)
    assert all(b - a >= 8 - 1e-6 for a, b in pairwise(sorted(found)))
    assert sorted(range(len(wanted)), key=lambda i: (wanted[i], i)) == sorted(range(len(found)), key=found.__getitem__)
    assert all(-1e-6 <= y <= 100 + 1e-6 for y in found)


def test_heights_that_have_room_stay_where_they_are():
    assert spread([10, 50, 90], 8, 0, 100) == [10, 50, 90]
