"""Time from earlier records."""

from __future__ import annotations

import pytest

from kvfrontier.runners.sweep.pace import Kind, Pace
from kvfrontier.runners.sweep.present import Brief, Device


def brief(
    method: str, context: int, seconds: float | None, task: str = "needle", device: str = "here", **changes
) -> Brief:
    cell = {
        "model": "m", "dtype": "float32", "device": "cpu", "task": {"name": task}, "protocol": {"repetitions": 3},
        "context": context, "batch": 1,
    }  # fmt: skip
    return Brief(f"{method}{context}{task}{seconds}", "", "ok", cell, method, Device("cpu", device), seconds, **changes)


def kind(method: str, task: str = "needle") -> Kind:
    return Kind.of(brief(method, 0, None, task).cell, method)


def test_a_cell_takes_what_the_same_cell_took():
    pace = Pace([brief("a", 512, 4.0), brief("a", 512, 6.0), brief("a", 1024, 100.0)])
    expected = pace.expect(kind("a"), 512, 1)
    assert expected is not None
    assert (expected.seconds, expected.basis) == (5.0, "the same cell")


@pytest.mark.parametrize(
    ("known", "seconds", "basis"),
    [
        ([brief("a", 512, 4.0), brief("a", 256, 99.0)], 8.0, "context 512"),
        ([brief("b", 512, 5.0), brief("c", 512, 1.0), brief("b", 512, 99.0, "perplexity")], 6.0, "other methods"),
        ([brief("b", 512, 5.0, "perplexity")], 10.0, "other tasks"),
    ],
)
def test_else_it_takes_as_much_a_token_as_the_nearest_that_did(known, seconds, basis):
    expected = Pace(known).expect(kind("a"), 1024, 1)
    assert expected is not None
    assert (expected.seconds, expected.basis) == (pytest.approx(seconds), basis)


def test_other_devices_and_failures_tell_nothing():
    assert Pace([brief("a", 512, 4.0, device="elsewhere")], "here").expect(kind("a"), 512, 1) is None
    assert Pace([brief("a", 512, None)], "here").expect(kind("a"), 512, 1) is None
