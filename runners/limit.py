"""A limit on the memory of this process, so that running out of it is real, whatever the machine has.

How it is enforced decides what it counts, and the record says which it was:

cgroup   a control group (v2) of the process's own, where this machine's groups can be written: every page that the
         process is the first to touch, files it reads included. The kernel kills what goes beyond.
rlimit   RLIMIT_DATA, everywhere else on Linux: private writable mappings, touched or not: the heap, tensors, stacks of
         threads, and the libraries' own data. Code, shared memory and files that are only read do not count. What goes
         beyond gets an error. RLIMIT_AS would count address space too that nobody uses: reserved arenas, and every
         library's code.
cuda     the fraction of the device that torch's caching allocator may reserve. The context and what libraries
         allocate past torch do not count.

    with limited(6 << 30, "cpu") as held:
        held.limit.baseline          # bytes that are taken already
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ByteSize, TypeAdapter, ValidationError

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Limit

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Held:
    """A limit that holds this process, and the control group that is to be removed after it (`clear`)."""

    limit: Limit
    group: Path | None = None


def parse(asked: Any, device: str) -> int | None:
    """`memory_limit=6GiB` in bytes, or None. Raises UsageError for what is no amount, and where none is enforced."""
    if asked is None:
        return None
    try:
        # Where a number's unit is none, pydantic reads bytes.
        limit = int(TypeAdapter(ByteSize).validate_python(asked)) if re.fullmatch(r"[\w. ]+", str(asked)) else 0
    except ValidationError:
        limit = 0
    if limit <= 0:
        raise UsageError(f"memory_limit={asked!r} is no amount of memory; write bytes, 6GiB or 1500MB")
    check(device)
    return limit


def check(device: str) -> None:
    """Raise UsageError where a device's memory cannot be limited."""
    kind = torch.device(device).type
    if kind == "cuda" or (kind == "cpu" and sys.platform == "linux"):
        return
    raise UsageError(
        f"memory is limited on Linux and on CUDA, and not on this {kind}; leave memory_limit and search out"
    )


@contextmanager
def limited(limit: int | None, device: torch.device | str) -> Iterator[Held]:
    """Hold this process to `limit` bytes, or, for None, to what the device has left; yields how, and what is taken.

    A control group stays behind, since a process cannot leave the last one it is in: `clear` removes it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        yield from _cuda(limit, device)
        return
    limit = limit or counted() + available()
    group = enter_group(limit)
    if group is not None:
        yield Held(Limit(bytes=limit, enforced="cgroup", baseline=_group_bytes(group)), group)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    within = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (within, hard))
    try:
        yield Held(Limit(bytes=within, enforced="rlimit", baseline=counted()))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _cuda(limit: int | None, device: torch.device) -> Iterator[Held]:
    _, total = torch.cuda.mem_get_info(device)
    within = min(limit or total, total)
    torch.cuda.set_per_process_memory_fraction(within / total, device)
    try:
        yield Held(Limit(bytes=within, enforced="cuda", baseline=torch.cuda.memory_reserved(device)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def counted() -> int:
    """Bytes of private writable mappings, which RLIMIT_DATA limits."""
    return _status("VmData")


def resident_peak(device: torch.device | str) -> int:
    """The most that this process had in memory: on a GPU, that torch's allocator had reserved."""
    device = torch.device(device)
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _status("VmHWM")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return _status("VmRSS")


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


def available() -> int:
    """Bytes that the system would still hand out without swapping, and that this process's group allows."""
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    free = int(next(line for line in meminfo if line.startswith("MemAvailable:")).split()[1]) << 10
    for group in _groups():
        with suppress(OSError, ValueError, StopIteration):  # no such file at the root; "max" is no number
            free = min(free, int((group / "memory.max").read_text()) - _group_bytes(group) + _given_back(group))
    return max(0, free)


# Control groups.


def enter_group(limit: int, candidates: list[Path] | None = None) -> Path | None:
    """Move this process into a new control group of `limit` bytes, below one of `candidates` (default: its own and the
    one above); None where the machine allows none."""
    for parent in _groups() if candidates is None else candidates:
        group = parent / f"kvfrontier-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / "memory.max").write_text(f"{limit}\n")
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0\n")
            (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
        except OSError:  # the memory controller is not handed down, or processes may not be moved
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def clear(group: Path) -> int:
    """Remove the control group of a process that has ended. Returns how often the kernel killed in it."""
    kills = 0
    with suppress(OSError, StopIteration):
        events = (group / "memory.events").read_text().splitlines()
        kills = int(next(line for line in events if line.startswith("oom_kill ")).split()[1])
    with suppress(OSError):
        group.rmdir()
    return kills


def _groups() -> list[Path]:
    """This process's own control group (v2) and the one above it."""
    with suppress(OSError, StopIteration):
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        root = next(Path(line.split()[4]) for line in mounts if " - cgroup2 " in line)
        line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines() if x.startswith("0::"))
        own = root / line.removeprefix("0::/").lstrip("/")
        return [own] if own == root else [own, own.parent]
    return []


def _group_bytes(group: Path) -> int:
    return int((group / "memory.current").read_text())


def _given_back(group: Path) -> int:
    """Of a group's bytes, the files in the page cache that the kernel drops before it refuses anything."""
    lines = (group / "memory.stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
