"""Where a measurement ran: device, threads, versions, revision of the source."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import Environment

DEVICES = ("cpu", "cuda", "mps")


def resolve_device(device: str, here: bool = True) -> str:
    """The device to use; for "auto" the best there is. Raises UsageError for one that this machine lacks; where it is
    another that will have it (`here=False`), only for one that there cannot be."""
    if not here:
        return _elsewhere(device)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    kind, _, index = device.partition(":")
    if kind not in there or (index and not index.isdigit()):
        raise unknown("device", device, (*DEVICES, "auto"))
    if not there[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UsageError(f"torch {torch.__version__} finds no device {device!r} here; choose one of: {usable}, auto")
    return device


def _elsewhere(device: str) -> str:
    if device == "auto":
        raise UsageError("device=auto is known only where a job runs; with this launcher say device=cuda or device=cpu")
    kind, _, index = device.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise unknown("device", device, DEVICES)
    return device


def describe(device: str) -> Environment:
    """The environment of this process on `device` ("auto" allowed)."""
    device = resolve_device(device)
    return Environment(
        device_name=device_name(device),
        device_kind=torch.device(device).type,  # pyright: ignore[reportArgumentType]
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=metadata.version("transformers"),
        kvfrontier=metadata.version("kvfrontier"),
        git_revision=git_revision(),
    )


def device_name(device: str) -> str:
    """The model of the GPU or the processor, in words."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()


@functools.cache
def _processor() -> str:
    """What the system calls its processor."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    elif platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        name = asked.stdout.strip() or name
    return name


@functools.cache
def git_revision() -> str | None:
    """Revision of the source that runs, with "-dirty" where its files, not the results, differ from it; None where it
    is no checkout."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An environment inside some other checkout is not that checkout's source.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)results")
    return f"{revision}-dirty" if revision and changed else revision
