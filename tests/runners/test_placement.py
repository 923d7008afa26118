"""One job a GPU; several where none is timed and all fit; what a process held is free when it dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners import placement
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.placement import Gpu, claim, is_timed, placed, predicted, visible
from kvfrontier.runners.record import Cell

GIB = 1 << 30
GPUS = [Gpu("GPU-aaa", "0", 24 * GIB), Gpu("GPU-bbb", "1", 80 * GIB)]


def cell(**changes: Any) -> Cell:
    protocol = {"chunk": 128, "repetitions": 3, "warmups": 1, "decode_tokens": 4}
    given: dict[str, Any] = {"model": "tiny", "dtype": "float32", "device": "cuda", "method": {"name": "dense"}}
    given |= {"task": {"name": "needle"}, "protocol": protocol, "context": 512}
    return Cell(**{**given, **changes})


@pytest.fixture
def driver(tmp_path, monkeypatch) -> Path:
    """An nvidia-smi that tells of two GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-aaa, 24576'\necho '1, GPU-bbb, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(placement, "_seen", [])
    monkeypatch.setattr(placement.tempfile, "gettempdir", lambda: str(tmp_path))
    return tool


# ------------------------------------------------------------------------------------------ which there are


def test_all_of_the_machine_where_nothing_is_said(driver):
    assert [(gpu.uuid, gpu.memory) for gpu in visible()] == [("GPU-aaa", 24 * GIB), ("GPU-bbb", 80 * GIB)]


@pytest.mark.parametrize(
    ("allowed", "uuids"),
    [
        ("1", ["GPU-bbb"]),
        ("1,0", ["GPU-bbb", "GPU-aaa"]),
        ("GPU-a", ["GPU-aaa"]),
        ("", []),
        ("0,7,1", ["GPU-aaa"]),
    ],
)
def test_cuda_visible_devices_is_respected_as_cuda_reads_it(driver, allowed, uuids):
    found = visible({**os.environ, "CUDA_VISIBLE_DEVICES": allowed})
    assert [gpu.uuid for gpu in found] == uuids
    assert [gpu.name for gpu in found] == [word for word in allowed.split(",") if word][: len(uuids)]


def test_without_the_drivers_tool_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == []
    with pytest.warns(UserWarning, match="nvidia-smi tells of no GPU: jobs are not spread"), placed([cell()], {}):
        pass


# ------------------------------------------------------------------------------------------ who has which


def test_each_job_that_is_timed_has_a_gpu_to_itself(tmp_path):
    with claim(GPUS, None, folder=tmp_path) as first, claim(GPUS, None, folder=tmp_path) as second:
        assert {first.uuid, second.uuid} == {"GPU-aaa", "GPU-bbb"}
        waiting = threading.Thread(target=_take, args=(tmp_path, None, 0.0))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "a third waits"
    waiting.join(10)
    assert not waiting.is_alive(), "until one is let go"


def test_jobs_that_are_not_timed_share_one_while_they_fit(tmp_path):
    with ExitStack() as held:
        got = [held.enter_context(claim(GPUS, 11 * GIB, folder=tmp_path)).uuid for _ in range(4)]
        assert got == ["GPU-aaa", "GPU-aaa", "GPU-bbb", "GPU-bbb"]
        # Beside them none is timed.
        waiting = threading.Thread(target=_take, args=(tmp_path, None, 0.0))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(10)


def test_a_job_goes_where_its_memory_is(tmp_path):
    with claim(GPUS, 40 * GIB, folder=tmp_path) as gpu:
        assert gpu.uuid == "GPU-bbb"
    with (
        pytest.raises(UsageError, match="predicted to take 96,636,764,160 bytes, and the largest GPU here has"),
        claim(GPUS, 90 * GIB, folder=tmp_path),
    ):
        pass


def _take(folder: Path, need: int | None, seconds: float, said: Any = None) -> None:
    with claim(GPUS[:1], need, folder=folder, poll=0.02):
        if said is not None:
            said.set()
        time.sleep(seconds)


def test_what_a_killed_process_held_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    said = context.Event()
    process = context.Process(target=_take, args=(tmp_path, None, 60.0, said))
    process.start()
    assert said.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    begun = time.monotonic()
    with claim(GPUS[:1], None, folder=tmp_path):
        assert time.monotonic() - begun < 5
    assert not list(tmp_path.rglob("*.claim"))


# ------------------------------------------------------------------------------------------ a job


def test_a_job_sees_the_gpu_that_it_holds_and_no_other(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    with placed([cell()], {"kind": "tiny"}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    # CUDA has begun with it: the next job of this process waits for the same.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with placed([cell()], {"kind": "tiny"}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_model_over_several_gpus_has_them_all(driver, tmp_path):
    with placed([cell()], {"kind": "hf", "device_map": "auto"}):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        assert len(list(tmp_path.rglob("*.claim"))) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_other_jobs_are_left_alone(driver, tmp_path, device):
    with placed([cell(device=device)], {"kind": "tiny"}):
        assert not list(tmp_path.rglob("*.claim"))


def test_a_cell_without_repetitions_is_not_timed():
    assert is_timed(cell())
    assert not is_timed(cell(protocol={**cell().protocol, "repetitions": 0}))
    assert not is_timed(cell(workload={"name": "chat"}))


def test_what_a_cell_takes_grows_with_its_context():
    model = {"name": "tiny", "kind": "tiny"}
    short, long = (predicted(cell(context=context), model) for context in (512, 4096))
    assert placement.CONTEXT_BYTES < short < long
