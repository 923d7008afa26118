"""Which GPU a job gets: one job a GPU, and several only where none of them is timed and all of them fit.

    with placed(cells, model):      # before anything touches CUDA
        ...                         # CUDA_VISIBLE_DEVICES names one GPU, which is this process's

A launcher may start as many jobs on a machine as it likes: each waits here for a GPU among those that
CUDA_VISIBLE_DEVICES allows. A claim is a file that its process keeps locked, so the claim of a process that died is
void, whatever it died of. A GPU goes by its UUID, since Slurm and Docker number theirs anew for each job.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell

# torch then asks the driver's library whether there is a GPU. CUDA itself would read CUDA_VISIBLE_DEVICES at that first
# question, and never again.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

#: What CUDA's context and its libraries take in each process, in bytes: beyond what tensors hold.
CONTEXT_BYTES = 1 << 30
#: Tensors may take so much of what is left, for the allocator cannot use every gap.
_USABLE = 0.92


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use: its UUID, how CUDA_VISIBLE_DEVICES names it, and its memory in bytes."""

    uuid: str
    name: str
    memory: int


def visible(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES allows, in its order; all of the machine's where it is not set. Asked of the
    driver, so that CUDA need not begin; none where it cannot be asked."""
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    command = [tool or "nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=False) if tool else None
    if said is None or said.returncode:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in said.stdout.splitlines() if line.strip()]
    found = [Gpu(uuid, uuid, int(mib) << 20) for _, uuid, mib in rows]
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return found
    chosen: list[Gpu] = []
    for word in allowed.split(","):
        word = word.strip()
        named = [g for (index, *_), g in zip(rows, found, strict=True) if word == index or _names(word, g)]
        if not named:
            break  # as CUDA does: what follows a name that does not exist is not seen
        chosen.append(Gpu(named[0].uuid, word, named[0].memory))
    return chosen


def _names(word: str, gpu: Gpu) -> bool:
    """A UUID may be given by its beginning. A part of a GPU (MIG) has a UUID of its own, and no line here."""
    return word.startswith("GPU-") and gpu.uuid.startswith(word)


#: The GPU that CUDA has seen in this process: at its first use, and until the process ends.
_seen: list[Gpu] = []


@contextmanager
def placed(cells: Sequence[Cell], model: Mapping[str, Any], spread: bool = True) -> Iterator[None]:
    """Hold a GPU for a job of `cells` while the block runs, and let this process see no other; for a model that is
    split (`model.device_map`), hold all that there are.

    Nothing is done where jobs are not `spread`, for a job on another device, for one that names its GPU (`cuda:1`), and
    in a process where CUDA has begun by itself. Raises UsageError where no GPU has the memory.
    """
    if not spread or cells[0].device != "cuda" or (torch.cuda.is_initialized() and not _seen):
        yield
        return
    gpus = _seen or visible()
    with ExitStack() as held:
        if model.get("device_map"):
            # In one order for all, so that two jobs do not wait for each other.
            for gpu in sorted(gpus, key=lambda gpu: gpu.uuid):
                held.enter_context(claim([gpu], None))
        elif not gpus:
            warnings.warn("nvidia-smi tells of no GPU: jobs are not spread over those that there are", stacklevel=2)
        else:
            need = None if any(map(is_timed, cells)) else max(predicted(cell, model) for cell in cells)
            gpu = held.enter_context(claim(gpus, need))
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu.name
            _seen[:] = [gpu]
        yield


def is_timed(cell: Cell) -> bool:
    """Whether its record says how long something took: then nothing else may run on its GPU."""
    return cell.workload is None and cell.protocol.get("repetitions", 0) > 0


def predicted(cell: Cell, model: Mapping[str, Any]) -> int:
    """Bytes that a cell's process takes of a GPU: the peak of its tensors, from fake ones, and CUDA's own."""
    from kvfrontier.methods import registry
    from kvfrontier.runners import models
    from kvfrontier.runners.plan.peaks import Run, peaks_or_bound

    new = cell.protocol["decode_tokens"]
    run = Run(
        model={**model, "dtype": cell.dtype},
        method=cell.method,
        batch=cell.batch,
        prompt=cell.context - new,
        new=new,
        chunk=cell.protocol["chunk"],
    )
    dtype = models.resolve_dtype(cell.dtype)
    found = peaks_or_bound(run, registry.build(cell.method), [layer.at(dtype) for layer in models.layers(dict(model))])
    return int(max(found.prefill, found.decode) / _USABLE) + CONTEXT_BYTES


@contextmanager
def claim(gpus: Sequence[Gpu], need: int | None, *, folder: Path | None = None, poll: float = 0.5) -> Iterator[Gpu]:
    """Hold `need` bytes of one of `gpus`, or one to itself (None), and wait until there is one.

    Raises UsageError where none has so much memory.
    """
    fitting = [gpu for gpu in gpus if need is None or need <= gpu.memory]
    if not fitting:
        most = max(gpu.memory for gpu in gpus)
        raise UsageError(
            f"a cell is predicted to take {need or 0:,} bytes, and the largest GPU here has {most:,}; "
            "lower context or batch, or choose a method that holds less"
        )
    folder = folder or Path(tempfile.gettempdir()) / f"kvfrontier-gpus-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for gpu in fitting:
            held = _try(folder / gpu.uuid, gpu, need)
            if held is not None:
                try:
                    yield gpu
                finally:
                    held.close()
                return
        time.sleep(poll)


def _try(folder: Path, gpu: Gpu, need: int | None) -> IO[str] | None:
    """A claim on this GPU, as the locked file that says how much it holds; None where there is no room for it."""
    folder.mkdir(exist_ok=True)
    with (folder / "claims.lock").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        held = 0
        for file in folder.glob("*.claim"):
            with suppress(FileNotFoundError), file.open() as other:  # gone: it was let go just now
                if _lock(other):  # its process has died
                    file.unlink(missing_ok=True)
                else:
                    held += int(other.read())
        wanted = gpu.memory if need is None else need
        if held + wanted > gpu.memory:
            return None
        mine = tempfile.NamedTemporaryFile("w", suffix=".claim", dir=folder)  # noqa: SIM115 - open while it is held
        mine.write(str(wanted))
        mine.flush()
        assert _lock(mine)
        return mine  # pyright: ignore[reportReturnType]


def _lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
