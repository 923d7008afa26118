"""Cells in a process apart: whatever becomes of it is a record, and the next cell runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from kvfrontier.runners import cell as cells
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.sweep import crew as crews
from kvfrontier.runners.sweep import stop
from kvfrontier.runners.sweep.crew import Crew, parse_timeout
from kvfrontier.runners.sweep.worker import Cells


@pytest.fixture
def crew(monkeypatch):
    """A crew whose processes do what the environment variable SABOTAGE says before a cell."""
    from tests.runners.sweep import sabotage

    monkeypatch.setattr(crews, "serve", sabotage.serve)
    made = Crew(isolate=True, timeout=60)
    yield made
    made.close()


def quiet(what: str) -> None:
    pass


def test_a_cell_apart_gives_the_record_of_a_cell_here(crew, tiny_cell):
    said = []
    apart = crew.run(*tiny_cell("method=window"), said.append)
    cell, config = tiny_cell("method=window")
    here = Cells().run(cell, config, quiet)
    assert apart.status == here.status == "ok"
    assert (apart.id, apart.quality, apart.memory.peak) == (here.id, here.quality, here.memory.peak)
    assert apart.seconds is not None
    assert "time" in said


def test_cells_that_share_a_model_share_a_process_and_a_load(crew, tiny_cell, monkeypatch, tmp_path):
    monkeypatch.setenv("SABOTAGE", f"count-loads {tmp_path / 'loads'}")
    for words in (["method=window"], ["method=window", "seed=1"], ["method=dense"]):
        assert crew.run(*tiny_cell(*words), quiet).status == "ok"
    assert (tmp_path / "loads").read_text() == "load\n"


def test_a_cell_that_hangs_is_ended_and_recorded(crew, tiny_cell, monkeypatch):
    crew._timeout = 0.5
    monkeypatch.setenv("SABOTAGE", "hang")
    record = crew.run(*tiny_cell(), quiet)
    assert record.status == "failed"
    assert "took longer than 0.5 s; raise worker.timeout" in record.memory.reason
    assert record.memory.failure.kind == "timeout"
    monkeypatch.delenv("SABOTAGE")
    crew._timeout = 60
    assert crew.run(*tiny_cell(), quiet).status == "ok"


def test_a_cell_that_the_kernel_kills_for_memory_is_out_of_memory(crew, tiny_cell, monkeypatch):
    assert crew.run(*tiny_cell("context=384"), quiet).status == "ok"
    crew.close()
    monkeypatch.setenv("SABOTAGE", "kill")
    counted = iter([3, 4])  # what the kernel says before and after
    monkeypatch.setattr(crews, "_kernel_kills", lambda: next(counted))
    record = crew.run(*tiny_cell("context=448"), quiet)
    assert record.status == "oom"
    assert record.memory.largest_fitting_context == 384
    assert "killed (SIGKILL), as the kernel does where memory runs out" in record.memory.reason
    assert record.memory.failure.kind == "killed"


def test_a_process_that_somebody_else_killed_is_no_lack_of_memory(crew, tiny_cell, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "kill")
    monkeypatch.setattr(crews, "_kernel_kills", lambda: 3)
    record = crew.run(*tiny_cell(), quiet)
    assert record.status == "failed"
    assert "not by the kernel for memory" in record.time.reason


def test_memory_that_a_limit_refuses_is_out_of_memory(crew, tiny_cell, monkeypatch):
    """RLIMIT_DATA makes the allocation fail, as an exception in the process."""
    monkeypatch.setenv("SABOTAGE", "limit")
    record = crew.run(*tiny_cell("context=8000", "model.max_context=8192", "protocol.chunk=null"), quiet)
    assert record.status == "oom", (record.quality.reason, record.memory.reason, record.time.reason)
    monkeypatch.delenv("SABOTAGE")
    crew.close()  # and its limit with it
    assert crew.run(*tiny_cell(), quiet).status == "ok"


def test_a_crash_is_recorded_with_what_the_process_said_last(crew, tiny_cell, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "crash")
    record = crew.run(*tiny_cell(), quiet)
    assert record.status == "failed"
    assert "died of SIGABRT" in record.quality.reason
    assert "the last words" in record.quality.failure.traceback


def test_where_the_device_failed_the_process_is_replaced_and_the_cell_tried_once_more(
    crew, tiny_cell, monkeypatch, tmp_path
):
    monkeypatch.setenv("SABOTAGE", f"cuda-once {tmp_path / 'failed'}")
    record = crew.run(*tiny_cell(), quiet)
    assert (record.status, record.attempts) == ("ok", 2)
    first, second = (tmp_path / "failed").read_text().split()
    assert first != second, "the same process"


def test_a_device_that_fails_twice_is_recorded(crew, tiny_cell, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "cuda")
    record = crew.run(*tiny_cell(), quiet)
    assert (record.status, record.attempts) == ("failed", 2)
    assert "failed twice, in two processes: CUDA error: an illegal memory access" in record.memory.reason
    assert record.memory.failure.kind == "device"
    assert "AcceleratorError" in record.memory.failure.traceback
    monkeypatch.delenv("SABOTAGE")
    assert crew.run(*tiny_cell(), quiet).status == "ok"


def test_without_a_process_apart_a_device_that_failed_is_recorded_too(tiny_cell, monkeypatch):
    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(cells.Bench, "quality", fails)
    cell, config = tiny_cell()
    record = Crew(isolate=False).run(cell, config, quiet)
    assert record.status == "failed"
    assert "device-side assert" in record.quality.reason


def test_a_model_that_cannot_be_loaded_is_recorded_with_its_traceback(crew, tiny_cell, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "load")
    record = crew.run(*tiny_cell(), quiet)
    assert record.status == "failed"
    assert record.quality.reason == "KeyError: 'weights'"
    assert "in load" in record.quality.failure.traceback


def test_mistakes_are_answered_by_a_sentence(crew, tiny_cell):
    cell, config = tiny_cell("method=mla")
    (reason,) = crew.check([cell], config["model"])
    assert "no latents to hold" in reason
    cell, config = tiny_cell()
    with pytest.raises(UsageError, match="leaves nothing of context"):
        crew.check([cell.model_copy(update={"protocol": {**cell.protocol, "decode_tokens": 384}})], config["model"])


def test_a_process_that_lost_its_sweep_ends(tmp_path, monkeypatch, tiny_cell):
    """It would go on with a cell that nobody records."""
    from tests.runners.sweep.processes import start
    from tests.runners.sweep.sabotage import sweep_that_leaves

    monkeypatch.setenv("SABOTAGE", "hang")
    sweep = start([str(tmp_path / "pid"), os.environ["SABOTAGE"]], sweep_that_leaves)
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    sweep.kill()
    sweep.join()
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_sigterm_gives_a_long_cell_back_in_time(crew, tiny_cell, monkeypatch):
    monkeypatch.setattr(stop, "GRACE_SECONDS", 0.5)
    monkeypatch.setenv("SABOTAGE", "hang")
    monkeypatch.setattr(stop._asked, "since", time.monotonic())  # told to end, just now
    begun = time.monotonic()
    with pytest.raises(stop.Preempted):
        crew.run(*tiny_cell(), quiet)
    assert time.monotonic() - begun < 30
    assert crew._process is None


def test_sigterm_lets_a_short_cell_end(crew, tiny_cell, monkeypatch):
    monkeypatch.setenv("SABOTAGE", "slow")
    monkeypatch.setattr(stop._asked, "since", time.monotonic())
    assert crew.run(*tiny_cell(), quiet).status == "ok"
    with pytest.raises(stop.Preempted):
        stop.check()


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("90s", 90), ("30min", 1800), ("6h", 21600), ("2d", 172800), (45, 45), ("1.5h", 5400), (None, None)],
)
def test_times_are_said_as_people_say_them(asked, seconds):
    assert parse_timeout(asked) == seconds


def test_what_is_no_time_is_a_mistake():
    for wrong in ("soon", "-3s", "0", "3 weeks"):
        with pytest.raises(UsageError, match=r"worker\.timeout=.* is no time; write 90s"):
            parse_timeout(wrong)
