"""What a failure becomes: a block that says so."""

from __future__ import annotations

import errno
import gc
import weakref

import pytest
import torch

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import DeviceFailed, guarded, is_out_of_memory
from kvfrontier.runners.record import Memory, Quality, Time


def test_what_succeeds_passes_through():
    block = Quality(status="ok")
    assert guarded(Quality, lambda: block) is block


def test_memory_that_runs_out_is_a_result():
    def run() -> Memory:
        torch.empty(1 << 60, dtype=torch.uint8)
        raise AssertionError

    block = guarded(Memory, run)
    assert block.status == "oom"
    assert "you tried to allocate 1152921504606846976 bytes" in block.reason
    assert "\n" not in block.reason


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_way_of_saying_it_is_understood(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("out of memory is a topic of this text"), OSError("lost")]
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_any_other_failure_names_itself_and_is_seen():
    def run() -> Time:
        raise KeyError("gate")

    seen = []
    block = guarded(Time, run, seen.append)
    assert (block.status, block.reason) == ("failed", "KeyError: 'gate'")
    assert [type(error) for error in seen] == [KeyError]


def test_a_failure_that_nobody_asked_for_is_logged_with_its_traceback(caplog):
    def run() -> Time:
        raise KeyError("gate")

    guarded(Time, run)
    assert "in run" in caplog.text


@pytest.mark.parametrize("error", [UsageError("context 5 is too short"), KeyboardInterrupt(), SystemExit(1)])
def test_mistakes_and_interruptions_pass_through(error):
    def run() -> Time:
        raise error

    with pytest.raises(type(error)):
        guarded(Time, run)


def test_the_frames_of_a_failure_hold_no_tensors_afterwards():
    held = []

    def run() -> Memory:
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise MemoryError

    gc.disable()
    try:
        guarded(Memory, run)
    finally:
        gc.enable()
    assert held[0]() is None


class CudaError(RuntimeError):
    """As torch words it."""


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        CudaError("CUDA error: device-side assert triggered"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
    ],
)
def test_a_device_that_failed_ends_all_that_this_process_measures(error):
    def run() -> Memory:
        raise error

    with pytest.raises(DeviceFailed, match=str(error)):
        guarded(Memory, run)


def test_a_failure_keeps_its_traceback():
    def run() -> Time:
        raise KeyError("gate")

    failure = guarded(Time, run, lambda _: None).failure
    assert failure is not None
    assert failure.kind == "error"
    assert "in run" in failure.traceback
