import pytest

from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.sizes import footprint


def test_the_longest_context_and_the_largest_batch_fit_and_more_does_not(planned):
    one = planned("dtype=bf16", "method=dense", "chunk=64", "device=l4-24g")
    row = one.row()
    step, memory = one.asked.chunk, one.asked.hardware.memory
    assert one._peak(row["max_context"], 1) <= memory < one._peak(row["max_context"] + step, 1)
    assert one._peak(300, row["max_batch"]) <= memory < one._peak(300, row["max_batch"] + 1)


def test_a_run_at_the_longest_context_needs_the_memory_to_a_tenth(planned):
    from dataclasses import replace

    one = planned("dtype=bf16", "chunk=64")
    # So little that the wall is near.
    device = replace(one.asked.hardware, memory_gb=0.002)
    near = Planned(replace(one.asked, hardware=device))
    found = near.peaks_at(near.max_context)
    assert max(found.prefill, found.decode) == pytest.approx(device.memory, rel=0.1)


def test_a_bounded_method_reaches_further_than_a_growing_one(planned):
    assert planned("method=window").max_context > planned("method=dense").max_context


def test_32_requests_of_500_hold_the_state_of_one_of_16000():
    many, one = (Planned(c) for c in words.read(["model=tiny", "requests=32x500,1x16000", "chunk=500"]))
    assert many.row()["state_bytes"] == one.row()["state_bytes"]


def test_what_does_not_run_on_fake_tensors_is_bounded(planned, monkeypatch):
    from kvfrontier.methods import registry
    from kvfrontier.runners.plan import peaks as predicted

    real, exact = predicted.peaks, planned("method=window").peaks
    monkeypatch.setattr(
        predicted, "peaks", lambda run: real(run) if run.method == registry.complete({"name": "dense"})
        else predicted.Peaks(why="its shapes depend on data")
    )  # fmt: skip
    row = planned("method=window").row()
    assert row["peaks_exact"] is False
    assert "peaks are bounds" in row["note"]
    assert row["prefill_peak_bytes"] >= exact.prefill


def test_a_context_beyond_the_models_positions_is_said(planned):
    assert "made for 8192 positions" in planned("context=9000").note
    assert planned().note == ""


def test_what_lies_on_the_host_is_no_peak_of_a_gpu(planned):
    dense, there = planned("method=dense"), planned("method=offloaded")
    row = there.row()
    held = footprint(there.method, there.layers, 1, 299, 1).held
    assert row["host_bytes"] == held.host + held.host_slack >= row["state_bytes"] == held.host
    assert row["prefill_peak_bytes"] == there.peaks.prefill - there.peaks.prefill_parts.host
    assert row["max_context"] > 1.5 * dense.max_context
    assert "on the host" in there.note


def test_it_is_where_the_devices_memory_is_the_hosts(planned):
    there = planned("method=offloaded", "device=m4-max-128g")
    row = there.row()
    assert row["host_bytes"] == 0
    assert row["prefill_peak_bytes"] == there.peaks.prefill
    assert there.note == ""


@pytest.mark.parametrize("method", ["dense", "window", "snapkv", "moving_average"])
def test_state_bytes_are_what_a_session_holds_at_the_end(planned, method):
    import torch

    from kvfrontier.runners import models
    from kvfrontier.runners.session import Session

    one = planned(f"method={method}", "new=3")
    loaded = models.load({**one.asked.model, "device": "cpu"})
    with Session(loaded.model, one.method) as session:
        session.prefill(torch.zeros(1, 297, dtype=torch.long), chunk=64)
        for _ in range(3):
            session.decode(torch.zeros(1, 1, dtype=torch.long))
        assert one.row()["state_bytes"] == session.state_bytes().payload
