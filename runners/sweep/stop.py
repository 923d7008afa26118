"""SIGTERM: a scheduler takes the machine back. The cell that runs is finished if that is soon, else given back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: A cell may go on for so long. Slurm and Kubernetes kill after 30 s, in which a tracker has its end to say too.
GRACE_SECONDS = 15.0


class Preempted(KeyboardInterrupt):
    """The process was told to end (SIGTERM). What was running has no record, and is run again by the same command."""


class _Asked:
    """Since when, by a clock that nobody sets; and whether what runs looks here by itself."""

    since: float | None = None
    patient: bool = False


_asked = _Asked()


def overdue() -> bool:
    """Whether what runs is to be given up now."""
    return _asked.since is not None and time.monotonic() - _asked.since > GRACE_SECONDS


def check() -> None:
    """Between two cells. Raises Preempted."""
    if _asked.since is not None:
        raise Preempted


@contextmanager
def patiently() -> Iterator[None]:
    """While the block runs, nothing is broken off: it calls `overdue` and `check` itself."""
    before, _asked.patient = _asked.patient, True
    try:
        yield
    finally:
        _asked.patient = before


@contextmanager
def heard() -> Iterator[None]:
    """Listen to SIGTERM while the block runs, where Python allows it: in the main thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _on_signal:
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.since = None


def _on_signal(*_: object) -> None:
    again = _asked.since is not None
    _asked.since = _asked.since or time.monotonic()
    if again or not _asked.patient:
        raise Preempted
