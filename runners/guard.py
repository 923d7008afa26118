"""What happens when a measurement fails: running out of memory is a result, and nothing stops the sweep."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Memory, Quality, Time

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and says_out_of_memory(str(error))


def says_out_of_memory(text: str) -> bool:
    """Whether the text of an error, or what a process wrote before it died, says that memory ran out."""
    return any(words in text for words in _OUT_OF_MEMORY)


def guarded(block: type[B], measure: Callable[[], B], on_failure: Callable[[Exception], None] | None = None) -> B:
    """`measure()`, or a block that says what went wrong: status "oom" where memory ran out, otherwise "failed" with
    the exception's type and message, after `on_failure` has seen it (default: its traceback goes to the log).

    Mistakes of the person who asked (UsageError) and interruptions pass through.
    """
    try:
        return measure()
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, it is recorded, and the sweep goes on
        if is_out_of_memory(error):
            failed = block(status="oom", reason=_one_line(error))
        else:
            (on_failure or _report)(error)
            failed = block(status="failed", reason=f"{type(error).__name__}: {_one_line(error)}")
    # The exception is gone, and with it the frames that held tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failed


def _report(error: Exception) -> None:
    log.error("a measurement failed", exc_info=error)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:499] + "…"
