"""Cells in a process apart: it is watched, replaced when it ends, and what ended it is recorded.

A cell that takes longer than it may, whose process the kernel kills for memory, or that crashes it, has a record that
says so, and the next cell runs in a new process. Where the device failed, the cell is tried once more in a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from kvfrontier.runners import cell as cells
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import DeviceFailed, failure_of, one_line
from kvfrontier.runners.record import Cell, Failure, Memory, Record, canonical_json
from kvfrontier.runners.search import process as processes
from kvfrontier.runners.sweep import stop
from kvfrontier.runners.sweep.worker import Broken, Cells, Check, Done, Mistake, Run, Say, Warn, serve

#: How often a process that is silent is looked at, in seconds.
_LOOK = 0.2
#: What a process said last, of which a record keeps so many characters.
_KEPT = 8_000
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_timeout(asked: object) -> float | None:
    """`worker.timeout=90s` (30min, 6h, 2d, or seconds) in seconds, or None. Raises UsageError."""
    if asked is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)\s*", str(asked))
    if not found or float(found[1]) <= 0:
        raise UsageError(f"worker.timeout={asked} is no time; write 90s, 30min, 6h, seconds, or null for none")
    return float(found[1]) * _UNITS[found[2]]


class Ended(Exception):
    """The process ended before it answered. `kind`: as of Failure."""

    def __init__(
        self, status: Literal["oom", "failed"], kind: Literal["killed", "died", "timeout"], why: str, said: str
    ):
        super().__init__(why)
        self.status: Literal["oom", "failed"] = status
        self.failure = Failure(kind=kind, traceback=said[-_KEPT:])


class Crew:
    """Runs cells, in a process apart or in this one (`isolate`), no longer than `timeout` seconds each."""

    def __init__(self, isolate: bool, timeout: float | None = None) -> None:
        self._own = None if isolate else Cells()
        self._timeout = timeout
        self._fitted: dict[str, list[int]] = {}
        self._process: BaseProcess | None = None
        self._link: Connection | None = None
        self._errors: Any = None
        self._read = 0

    def run(self, cell: Cell, config: Mapping[str, Any], say: Callable[[str], None]) -> Record:
        """The cell's record, whatever happened. Raises UsageError and stop.Preempted."""
        if self._own is not None:
            try:
                return self._own.run(cell, config, say)
            except DeviceFailed as error:
                return cells.without_result(cell, config, "failed", _failed(one_line(error), 1), failure_of(error))
        begun = time.monotonic()
        for attempt in (1, 2):
            try:
                with stop.patiently():
                    answer = self._ask(Run(cell, config), say)
            except Ended as ended:
                record = cells.without_result(cell, config, ended.status, str(ended), ended.failure)
                break
            if not isinstance(answer, Broken):
                record = answer
                break
            self.close()
            record = cells.without_result(cell, config, "failed", _failed(answer.reason, attempt), answer.failure)
        update: dict[str, Any] = {"attempts": attempt, "seconds": time.monotonic() - begun}
        return record.model_copy(update={**update, "memory": self._with_what_fitted(cell, record.memory)})

    def _with_what_fitted(self, cell: Cell, memory: Memory) -> Memory:
        """A process that was killed for memory took with it what it knew of smaller contexts."""
        fitted = self._fitted.setdefault(canonical_json([cell.model, cell.dtype, cell.device, cell.asked]), [])
        if memory.status == "ok":
            fitted.append(cell.context)
        if memory.status != "oom" or memory.largest_fitting_context is not None:
            return memory
        return memory.model_copy(update={"largest_fitting_context": max(fitted, default=None)})

    def check(self, asked: Sequence[Cell], model: Mapping[str, Any]) -> list[str | None]:
        """As cell.check, where the model is then loaded. A process that ends over it says nothing of the cells: each
        is run, and its record says why it cannot be. Raises UsageError and stop.Preempted."""
        if self._own is not None:
            return cells.check(asked, model)
        try:
            with stop.patiently():
                answer = self._ask(Check(asked, model), lambda _: None)
        except Ended:
            answer = None
        if isinstance(answer, Broken):
            self.close()
        return answer if isinstance(answer, list) else [None] * len(asked)

    def _ask(self, request: Run | Check, say: Callable[[str], None]) -> Any:
        """What the process answers: a record, reasons, or Broken. Raises Ended, UsageError and Preempted."""
        if self._process is None or not self._process.is_alive():
            self._start()
        link, process = self._link, self._process
        assert link is not None
        assert process is not None
        until = None if self._timeout is None else time.monotonic() + self._timeout
        kills = _kernel_kills()
        with contextlib.suppress(OSError):
            link.send(request)
        while True:
            if not link.poll(_LOOK):
                if stop.overdue():
                    self.close()
                    raise stop.Preempted
                if until is not None and time.monotonic() > until:
                    said = self.close()
                    raise Ended(
                        "failed", "timeout", f"it took longer than {self._timeout:g} s; raise worker.timeout", said
                    )
                continue
            try:
                answer = link.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                raise self._end(kills) from None
            match answer:
                case Say(what):
                    say(what)
                case Warn(message):
                    warnings.warn(message, stacklevel=2)
                case Done(result):
                    return result
                case Mistake(message):
                    raise UsageError(message)
                case Broken():
                    return answer

    def _start(self) -> None:
        self.close()
        context = processes.server()
        self._errors = tempfile.NamedTemporaryFile("r", prefix="kvfrontier-", errors="replace")  # noqa: SIM115
        self._link, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._errors.name, dict(os.environ)), name="kvfrontier-cells"
        )
        with processes.without_main():
            self._process.start()
        theirs.close()

    def _end(self, kills: int | None) -> Ended:
        """What a process died of, whose end of the link is closed."""
        process = self._process
        assert process is not None
        process.join()
        code, after = process.exitcode or 0, _kernel_kills()
        said = self.close()
        status, why = processes.death(code, said, 0)
        if code == -9 and kills is not None and after == kills:
            return Ended("failed", "killed", "its process was killed (SIGKILL), and not by the kernel for memory", said)
        return Ended("oom" if status == "oom" else "failed", "killed" if code == -9 else "died", why, said)

    def close(self) -> str:
        """End the process, if there is one, at once; returns what it wrote to stderr."""
        said = ""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._link is not None:
            self._link.close()
        if self._errors is not None:
            said = self._errors.read().strip()
            self._errors.close()
        self._process = self._link = self._errors = None
        return said


def _failed(reason: str, attempt: int) -> str:
    return f"the device failed: {reason}" if attempt == 1 else f"the device failed twice, in two processes: {reason}"


def _kernel_kills() -> int | None:
    """How many processes the kernel of this machine has killed for memory; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def of(worker: Mapping[str, Any]) -> Crew:
    """The crew of this process, by the keys of the node `worker` in configs/config.yaml: jobs that it runs one after
    the other share it, and the model in it. Raises UsageError."""
    isolate = worker.get("isolate", True)
    if not isinstance(isolate, bool):
        raise UsageError(f"worker.isolate={isolate} is neither true nor false")
    return _crew(isolate, parse_timeout(worker.get("timeout")))


@functools.lru_cache(maxsize=1)
def _crew(isolate: bool, timeout: float | None) -> Crew:
    found = Crew(isolate, timeout)
    atexit.register(found.close)
    return found
