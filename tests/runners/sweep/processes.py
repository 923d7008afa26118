"""Sweeps of tiny cells, in processes that come from one warm server. It imports no pytest: they would load it too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from kvfrontier.runners.record import Record, load_records
from kvfrontier.runners.search import process as processes

#: A cell of some hundredths of a second.
TINY = (
    "model=tiny", "model.layers=1", "task=needle", "task.samples=1", "context=384", "meter.decode_tokens=2",
    "meter.repetitions=1", "meter.warmups=0", "tracker=none", "device=cpu", "worker.isolate=false",
)  # fmt: skip


def command(words: Sequence[str], silent: bool = True) -> None:
    """`kvfrontier` in a process of its own, which ends with its exit code."""
    import torch

    from kvfrontier.runners import cli

    torch.set_num_threads(1)
    if silent:
        for fd in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    os._exit(cli.main(list(words)))


def start(words: Sequence[str], target: Callable[..., None] = command, silent: bool = True) -> BaseProcess:
    """Begin a command within a tenth of a second: torch is loaded there already."""
    process = processes.server().Process(target=target, args=(tuple(words), silent))
    with processes.without_main():
        process.start()
    return process


def said(results: Path) -> dict[str, tuple]:
    """What does not vary from run to run, of every record, by id; fails where an id has two records."""
    records = [r for file in sorted(results.glob("*.jsonl")) for r in load_records(file)]
    lines = sum(file.read_bytes().count(b"\n") for file in results.glob("*.jsonl"))
    assert lines == len(records) == len({r.id for r in records}), "a record is there twice"
    return {r.id: _fixed(r) for r in records}


def _fixed(r: Record) -> tuple:
    memory = r.memory.model_dump(exclude={"workspace", "allocator_waste"})
    return r.status, r.cell, r.quality.samples, r.quality.scores, tuple(memory.items()) if r.memory.peak else None
