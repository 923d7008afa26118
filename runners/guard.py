"""What happens when a measurement fails: running out of memory is a result, and nothing stops the sweep."""

from __future__ import annotations

import errno
import gc
import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Failure, Memory, Quality, Time

B = TypeVar("B", Quality, Memory, Time)

log = logging.getLogger(__name__)

#: How libraries say in a plain RuntimeError that there is no memory.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "bad_alloc",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MemoryError",
    "Cannot allocate memory",
    "can't start new thread",
    "Thread creation failed",
)

#: How libraries say in a plain RuntimeError that the device failed.
_DEVICE_FAILED = ("CUDA error", "HIP error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "device-side assert")


class NotFinite(RuntimeError):
    """Logits were NaN or infinite. `step`: the first token of the text, counted from 0, that gave some."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the logits after token {step} (counted from 0) are not finite")
        self.step = step


class DeviceFailed(RuntimeError):
    """The device failed, and this process cannot use it any more; another one may."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and says_out_of_memory(str(error))


def is_device_failure(error: BaseException) -> bool:
    """Whether an exception says that the device failed, otherwise than by its memory."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _DEVICE_FAILED)


def failure_of(error: BaseException) -> Failure:
    """What a record keeps of an exception."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, NotFinite):
        return Failure(kind="not_finite", step=error.step, traceback=text)
    return Failure(kind="device" if isinstance(error, DeviceFailed) else "error", traceback=text)


def says_out_of_memory(text: str) -> bool:
    """Whether the text of an error, or what a process wrote before it died, says that memory ran out."""
    return any(words in text for words in _OUT_OF_MEMORY)


def guarded(block: type[B], measure: Callable[[], B], on_failure: Callable[[Exception], None] | None = None) -> B:
    """`measure()`, or a block that says what went wrong: status "oom" where memory ran out, otherwise "failed" with
    the exception's type, message and traceback, after `on_failure` has seen it (default: it goes to the log).

    Mistakes of the person who asked (UsageError) and interruptions pass through, and so does DeviceFailed: nothing
    else that this process measures would be worth anything.
    """
    try:
        return measure()
    except (UsageError, DeviceFailed):
        raise
    except Exception as error:  # whatever it was, it is recorded, and the sweep goes on
        if is_device_failure(error):
            raise DeviceFailed(one_line(error)) from error
        if is_out_of_memory(error):
            failed = block(status="oom", reason=one_line(error))
        else:
            (on_failure or _report)(error)
            reason = f"{type(error).__name__}: {one_line(error)}"
            failed = block(status="failed", reason=reason, failure=failure_of(error))
    # The exception is gone, and with it the frames that held tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failed


def _report(error: Exception) -> None:
    log.error("a measurement failed", exc_info=error)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, of at most 500 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:499] + "…"
