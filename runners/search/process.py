"""One try in a process of its own, whose death is a result.

The processes come from a server that has loaded torch and transformers once (multiprocessing's forkserver): a try
begins within a tenth of a second, with memory that no try before it has touched.
"""

from __future__ import annotations

import functools
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import ModuleType
from typing import Any

from kvfrontier.runners import limit
from kvfrontier.runners.guard import says_out_of_memory
from kvfrontier.runners.limit import Held
from kvfrontier.runners.record import Limit, Memory, Status, Time
from kvfrontier.runners.search import probe
from kvfrontier.runners.search.probe import Report, Request


@functools.cache
def server() -> ForkServerContext:
    """Where processes come from that begin with torch and transformers in place: those of tries, and of cells."""
    # Under joblib this process is one of loky's, whose way to start others a new process would look for, and not find.
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method("forkserver", force=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([probe.__name__, "kvfrontier.runners.sweep.worker"])
    return context


def look(device: str, asked: int | None, threads: int) -> Limit:
    """How a process is held to `asked` bytes (None: what the device has left), and what it has taken by then.

    Raises RuntimeError where such a process dies.
    """
    held, _, (_, words) = _run(None, device, asked, threads)
    if held is None:
        raise RuntimeError(f"no process could be started under the limit: {words}")
    return held.limit


def run(request: Request) -> tuple[Limit | None, Report]:
    """One try; it reports memory that ran out, and so does its death by it."""
    held, report, (status, words) = _run(request, request.model["device"], request.limit, request.threads)
    if report is None:
        report = Report(Time(status=status, reason=words), Memory(status=status, reason=words))
    return held and held.limit.model_copy(update={"resident_peak": report.resident_peak}), report


def _run(
    request: Request | None, device: str, asked: int | None, threads: int
) -> tuple[Held | None, Report | None, tuple[Status, str]]:
    """What a process told before it ended, None where it died before that, and what its end says."""
    context = server()
    receive, send = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r", prefix="kvfrontier-", errors="replace") as errors, receive:
        process = context.Process(
            target=probe.serve, args=(request, device, asked, threads, send, errors.name), name="kvfrontier-probe"
        )
        with without_main():
            process.start()
        try:
            send.close()
            held: Held | None = _received(receive)
            report: Report | None = _received(receive) if request is not None else None
            process.join()
        finally:
            if process.is_alive():
                process.kill()
                process.join()
        kills = limit.clear(held.group) if held and held.group else 0
        return held, report, death(process.exitcode or 0, errors.read().strip(), kills)


@contextmanager
def without_main() -> Iterator[None]:
    """A process needs nothing of the program that asks for it, whose file may have no guard: it is not run there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _received(connection: Connection) -> Any:
    """What the process sends next, or None where it has died."""
    try:
        return connection.recv()
    except EOFError:
        return None


def death(code: int, said: str, kills: int) -> tuple[Status, str]:
    """Whether a process ended because memory ran out, and what it died of, in words."""
    last = said.splitlines()[-1][:300] if said else ""
    if kills or code == -signal.SIGKILL:
        return "oom", "the process was killed (SIGKILL), as the kernel does where memory runs out"
    how = f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process ended with code {code}"
    return ("oom" if says_out_of_memory(said) else "failed"), f"{how}: {last}" if last else how
