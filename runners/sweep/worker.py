"""The process in which cells run, one after the other, with the model that they share loaded once. It may die, hang or
lose its device: the process that started it (crew.py) records that, and starts another.

Like the process of a search's try, it comes from a server that has loaded torch and transformers once, and touches no
device on being imported.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners import session as _session  # noqa: F401  loaded by the server, for all that come from it
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import DeviceFailed, failure_of, is_device_failure, is_out_of_memory, one_line
from kvfrontier.runners.record import Cell, Failure, Record, canonical_json
from kvfrontier.runners.search.probe import first_to_go


@dataclass(frozen=True)
class Run:
    """Run a cell, of a composed configuration."""

    cell: Cell
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """Say which cells the method cannot serve; as cell.check."""

    cells: Sequence[Cell]
    model: Mapping[str, Any]


@dataclass(frozen=True)
class Say:
    """What is going on."""

    what: str


@dataclass(frozen=True)
class Warn:
    """A warning, for whoever looks at the terminal."""

    message: str


@dataclass(frozen=True)
class Done:
    """What came of a request: a record, or reasons."""

    result: Any


@dataclass(frozen=True)
class Mistake:
    """A UsageError."""

    message: str


@dataclass(frozen=True)
class Broken:
    """The device failed; this process ends."""

    reason: str
    failure: Failure


class Cells:
    """Runs cells in this process. What cells that follow each other share is kept: the model, and of one method what
    was measured."""

    def __init__(self) -> None:
        self._of = ""
        self._bench: cells.Bench | None = None

    def run(self, cell: Cell, config: Mapping[str, Any], say: Callable[[str], None]) -> Record:
        """The cell's record, whatever went wrong. Raises UsageError, and DeviceFailed."""
        begun = time.monotonic()
        try:
            record = self._benched(cell, config["model"]).run(cell, config, say)
        except (UsageError, DeviceFailed):
            raise
        except Exception as error:
            if is_device_failure(error):
                raise DeviceFailed(one_line(error)) from error
            # As a model that cannot be loaded: what a pass does wrong is in its own block.
            status = "oom" if is_out_of_memory(error) else "failed"
            reason = f"{type(error).__name__}: {one_line(error)}"
            record = cells.without_result(cell, config, status, reason, failure_of(error))
        return record.model_copy(update={"seconds": time.monotonic() - begun})

    def _benched(self, cell: Cell, model: Mapping[str, Any]) -> cells.Bench:
        key = canonical_json([model, cell.dtype, cell.device, cell.asked])
        if self._bench is None or key != self._of:
            self._bench, self._of = cells.Bench(cell, model), key
        return self._bench


def serve(link: connection.Connection, errors: str, environment: Mapping[str, str]) -> None:
    """A process from beginning to end: answers requests until nobody is left to ask. What it writes to stderr goes to
    the file `errors`; `environment` is that of the process that asks, and not of the server."""
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    # The terminal's Ctrl-C and a scheduler's SIGTERM go to every process; the one that asks decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    first_to_go()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.showwarning = lambda message, *_, **__: link.send(Warn(str(message)))
    own = Cells()
    while True:
        try:
            request: Run | Check = link.recv()
        except (EOFError, OSError):
            return
        try:
            link.send(Done(_answer(own, request, lambda what: link.send(Say(what)))))
        except UsageError as error:
            link.send(Mistake(str(error)))
        except DeviceFailed as error:
            link.send(Broken(one_line(error), failure_of(error)))
            return


def _answer(own: Cells, request: Run | Check, say: Callable[[str], None]) -> Any:
    if isinstance(request, Check):
        return cells.check(request.cells, request.model)
    return own.run(request.cell, request.config, say)


def _end_with_parent() -> None:
    """A worker whose sweep was killed would go on with a cell that nobody records."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
