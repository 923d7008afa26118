"""Starts the worker and watches it: an item that takes too long is ended, and after a crash, which on a GPU spoils the
process, a new worker goes on with the next item."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.gpu_suite.journal import Entry, Journal

#: Seconds between two looks at the worker.
PERIOD = 0.2
#: Seconds after the time is over that an item which has begun may still take.
GRACE = 30.0
#: Seconds in which a worker must have begun its first item.
STARTING = 180.0


def conduct(
    folder: Path, only: Sequence[str], dry: bool, seconds: float, gguf: Sequence[Path], as_json: bool
) -> int:  # fmt: skip
    """Run until all is done or the time is over, then write the page; 1 where an item failed, else 0."""
    journal, until = Journal(folder), time.time() + seconds
    command = [sys.executable, "-m", "kvfrontier.runners.gpu_suite", "-o", str(folder), "--only", ",".join(only)]
    command += ["--dry-run"] * dry + (["--gguf", *map(str, gguf)] if gguf else [])
    before = set(journal.entries())
    usual = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a worker never outlives this process
    try:
        while time.time() < until and not _worker(command, journal, until):
            pass
    finally:
        signal.signal(signal.SIGTERM, usual)
    entries = journal.entries()
    from kvfrontier.runners.gpu_suite import page

    written = page.write(entries.values(), folder / "suite.md")
    if as_json:
        print(json.dumps([entry.model_dump() for entry in entries.values()]))
    else:
        print(written)
    for wrong in journal.check_size():
        print(f"kvfrontier: more than may leave the machine: {wrong}", file=sys.stderr)
    new = [entry for name, entry in entries.items() if name not in before or entry.status not in ("ok", "refused")]
    return 1 if any(entry.status in ("failed", "crashed", "timeout") for entry in new) else 0


def _worker(command: Sequence[str], journal: Journal, until: float) -> bool:
    """One worker, from beginning to end; whether all was done that could be begun."""
    left = until - time.time()
    journal.forget()
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen([*command, "--worker", f"{left:.1f}"], stdout=errors, stderr=errors)
        begun, seen = time.time(), False
        try:
            while worker.poll() is None:
                time.sleep(PERIOD)
                running, now = journal.running(), time.time()
                seen = seen or running is not None
                if running is None:
                    late = not seen and now - begun > STARTING
                else:
                    late = now - running["begun"] > running["limit"] or now > until + GRACE
                if late:
                    worker.kill()
                    worker.wait()
                    since = running["begun"] if running else begun
                    return _ended(journal, "timeout", f"ended after {now - since:.0f} s")
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        if worker.returncode == 0:
            return True
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip(" ^~")][-2:]
        if worker.returncode == 2:
            raise UsageError(" ".join(told).removeprefix("kvfrontier: "))
        return _ended(journal, "crashed", f"exit code {worker.returncode}: {' '.join(told)}"[:600])


def _ended(journal: Journal, status: str, reason: str) -> bool:
    """Write down how the item ended that ran; True where none ran, so that another worker would end as this one."""
    running = journal.running()
    name = running["name"] if running else "worker"
    part = running["part"] if running else "suite"
    took = time.time() - running["begun"] if running else 0.0
    journal.end(Entry(part=part, name=name, status=status, reason=reason, seconds=took))  # pyright: ignore[reportArgumentType]
    return running is None
