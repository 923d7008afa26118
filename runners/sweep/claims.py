"""Who works on what in a results folder: sweeps that run at once take different jobs, and none loses its work.

A claim is a file, `.sweep/NAME.000001`, that exactly one process can create (O_EXCL). Its owner says in it who it is
and what it does, and counts a beat every few seconds, by rename; when it is done it writes `"done": true`. The
next owner creates the next number: after `done`, or where the owner is dead. Of an owner on this machine that is seen
by its process; of one elsewhere, by a beat that has not changed for a minute of the observer's own clock. No lock of
the system, no deletion that races, and no comparison of two clocks, so it holds on shared filesystems, after a crash,
and while a clock jumps.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Where claims, and what sweeps set out to do, lie in a results folder.
FOLDER = ".sweep"
BEAT_SECONDS = 5.0
#: An owner elsewhere is taken for dead after so long without a beat. Longer than shared filesystems cache a file.
DEAD_SECONDS = 120.0
#: Who waits looks so often.
_LOOK = 0.5


class Lost(RuntimeError):
    """This process was taken for dead, and another one has its claim."""


@dataclass(frozen=True)
class Held:
    """What a claim's file says."""

    name: str
    number: int
    said: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether its owner has let go."""
        return bool(self.said.get("done"))

    @property
    def gone(self) -> bool:
        """Whether its owner ran on this machine and runs no more."""
        return self.said.get("where") == _here() and self.said.get("process") != _process(self.said.get("pid", 0))


def current(results: Path) -> dict[str, Held]:
    """The last claim of each name."""
    found: dict[str, tuple[int, Path]] = {}
    with contextlib.suppress(FileNotFoundError):
        for path in (results / FOLDER).iterdir():
            name, _, number = path.name.rpartition(".")
            if name and number.isdigit() and int(number) > found.get(name, (0, path))[0]:
                found[name] = int(number), path
    return {name: Held(name, number, _read(path)) for name, (number, path) in found.items()}


def _read(path: Path) -> dict[str, Any]:
    """Empty where its owner has made it this moment, or died there."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


@dataclass
class Claim:
    """The right of this process to work on `name` in a results folder."""

    results: Path
    name: str
    number: int
    _said: dict[str, Any] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _end: threading.Event = field(default_factory=threading.Event)
    _begun: float = field(default_factory=time.monotonic)

    def tell(self, cell: str) -> None:
        """Say which cell runs now, to whoever looks at the folder. Raises Lost."""
        self.check()
        with self._guard:
            self._said["cell"], self._begun = cell, time.monotonic()
            self._write()

    def check(self) -> None:
        """Raise Lost where another process has taken over: before anything is written that both might write."""
        if max(_numbers(self.results, self.name), default=0) > self.number:
            raise Lost(f"another process took over {self.name}, for this one had stood still; it goes on there")

    def _write(self) -> None:
        said = {**_who(), **self._said, "seconds": round(time.monotonic() - self._begun, 1)}
        path = _path(self.results, self.name, self.number)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        # Where the disk is full or closed, the beat stops; the records say what is wrong with it.
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(said))
            part.replace(path)

    def let_go(self) -> None:
        """The next may begin."""
        self._end.set()
        with self._guard:
            self._said["done"] = True
            self._write()

    def beat(self) -> None:
        """Show that this process lives, until it lets go."""
        beats = 0
        while not self._end.wait(BEAT_SECONDS):
            beats += 1
            with self._guard:
                self._said["beat"] = beats
                self._write()


class Watch:
    """What this process has seen of other owners' beats, by its own clock."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}
        self._changed: dict[tuple[str, int], bool] = {}

    def dead(self, held: Held) -> bool:
        """Whether the owner is known to have ended, or has not beaten for DEAD_SECONDS."""
        if held.gone:
            return True
        if held.said.get("where") == _here():
            return False
        key, now, said = (held.name, held.number), time.monotonic(), held.said.get("beat")
        before, since = self._seen.get(key, (None, now))
        if key not in self._seen or before != said:
            self._changed[key] = key in self._seen
            self._seen[key] = said, now
            return False
        return now - since > DEAD_SECONDS

    def beating(self, held: Held) -> bool:
        """Whether the owner is known to be alive: its process is here, or its beat has changed since the first look,
        as `dead` saw it."""
        if held.said.get("where") == _here():
            return not held.gone
        return self._changed.get((held.name, held.number), False)


@contextlib.contextmanager
def claimed(results: Path, name: str, wait: bool = False) -> Iterator[Claim | None]:
    """Hold `name` while the block runs; None where another process does, unless this is to `wait` for it."""
    (results / FOLDER).mkdir(parents=True, exist_ok=True)
    watch = Watch()
    while (claim := _take(results, name, watch)) is None and wait:
        time.sleep(_LOOK)
    if claim is None:
        yield None
        return
    threading.Thread(target=claim.beat, name=f"beat-{name}", daemon=True).start()
    try:
        yield claim
    finally:
        claim.let_go()


def _take(results: Path, name: str, watch: Watch) -> Claim | None:
    numbers = _numbers(results, name)
    last = max(numbers, default=0)
    if last:
        held = Held(name, last, _read(_path(results, name, last)))
        if not held.done and not watch.dead(held):
            return None
    number = last + 1
    try:
        with _path(results, name, number).open("x") as file:
            json.dump(_who(), file)
    except FileExistsError:
        return None
    if max(_numbers(results, name)) != number:
        return None  # it had looked long ago, and made a number that is past
    for old in numbers:
        _path(results, name, old).unlink(missing_ok=True)
    return Claim(results, name, number)


def _path(results: Path, name: str, number: int) -> Path:
    return results / FOLDER / f"{name}.{number:06}"


def _numbers(results: Path, name: str) -> list[int]:
    numbers = (path.name.rpartition(".") for path in (results / FOLDER).glob(f"{name}.*"))
    return [int(number) for stem, _, number in numbers if stem == name and number.isdigit()]


def _who() -> dict[str, Any]:
    return {"host": socket.gethostname(), "where": _here(), "pid": os.getpid(), "process": _process(os.getpid())}


def _here() -> str:
    """What names this machine, and within it the space that process ids count in."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    told = [boot.read_text().strip(), os.readlink(space)] if boot.exists() and space.exists() else []
    return " ".join([socket.gethostname(), *told])


def _process(pid: int) -> str | None:
    """What tells a process from a later one of the same id: when it began, in ticks since the machine did; None where
    there is none."""
    if not pid:
        return None
    if Path("/proc/self/stat").exists():
        try:
            # Its name, in parentheses, may hold anything.
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if stat[0] == "Z" else stat[19]
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
