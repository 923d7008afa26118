"""What counts as better or worse between two runs, and what as noise."""

from __future__ import annotations

import pytest

from kvfrontier.analysis.changes import compare


def directions(before, after, **allowed) -> dict[str, str]:
    return {change.name: change.direction for change in compare([before], [after], **allowed).changes}


def test_a_run_is_the_same_as_itself(records) -> None:
    found = compare(records, records)
    assert {change.direction for change in found.changes} == {"same"}
    assert not found.worse() and not found.only_before and not found.only_after


def test_a_score_is_worse_where_its_paired_interval_is_below_zero(cell_of) -> None:
    good = cell_of("kivi4")
    samples = [
        {**s, "blocks": {**s["blocks"], "agreement": [a - 0.05 for a in s["blocks"]["agreement"]]}}
        for s in good.quality.samples
    ]
    worse = cell_of("kivi4", quality__samples=samples, quality__scores__agreement__value=0.9)
    found = directions(good, worse)
    assert found["agreement"] == "worse" and found["kl"] == "same"
    assert directions(worse, good)["agreement"] == "better"


def test_scores_of_other_samples_or_another_task_are_not_compared(cell_of) -> None:
    one = cell_of("kivi4")
    assert directions(one, cell_of("kivi4", quality__sample_set="others"))["agreement"] == "not compared"
    assert directions(one, cell_of("kivi4", quality__task_hash="others"))["agreement"] == "not compared"


def test_one_byte_of_state_more_is_worse_and_a_peak_has_an_allowance(cell_of) -> None:
    one = cell_of("window")
    more = cell_of(
        "window", memory__live_payload=one.memory.live_payload + 1, memory__peak=int(one.memory.peak * 1.005)
    )
    found = directions(one, more)
    assert found["live_payload"] == "worse" and found["peak"] == "same"
    assert directions(one, more, peak=0.001)["peak"] == "worse"


def test_seconds_are_worse_where_quartiles_do_not_overlap(cell_of) -> None:
    one = cell_of("dense")
    decode = one.time.decode.model_dump()
    slower = cell_of("dense", time__decode={k: v * 1.3 if k != "n" else v for k, v in decode.items()})
    within = cell_of("dense", time__decode={k: v * 1.03 if k != "n" else v for k, v in decode.items()})
    assert directions(one, slower)["decode"] == "worse"
    assert directions(one, within)["decode"] == "same"
    wide = cell_of("dense", time__decode=decode | {"median": decode["median"] * 1.3, "q3": decode["median"] * 2})
    assert directions(one, wide)["decode"] == "same"


def test_seconds_of_two_machines_are_not_compared(cell_of) -> None:
    other = cell_of("dense", environment__device_name="another")
    assert directions(cell_of("dense"), other)["decode"] == "not compared"


@pytest.mark.parametrize("status", ["failed", "oom", "infeasible"])
def test_what_no_longer_runs_is_worse(cell_of, status) -> None:
    broken = cell_of("dense", quality__status=status, quality__reason="it broke\nthere", quality__scores={})
    (change,) = [c for c in compare([cell_of("dense")], [broken]).changes if c.kind == "status"]
    assert change.direction == "worse" and change.why == "it broke"


def test_cells_of_one_side_are_told(cell_of) -> None:
    found = compare([cell_of("dense"), cell_of("window")], [cell_of("dense"), cell_of("sinks")])
    assert [len(found.only_before), len(found.only_after)] == [1, 1]
