"""Runs items until the time is over, in a process of its own."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kvfrontier.runners import environment
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.items import Item, all_items
from kvfrontier.runners.gpu_suite.journal import Entry, Journal
from kvfrontier.runners.gpu_suite.scale import GPU, TINY
from kvfrontier.runners.guard import is_out_of_memory


class Spoiled(RuntimeError):
    """The device can no longer be used by this process."""


def work(folder: Path, only: Sequence[str], dry: bool, seconds: float, gguf: Sequence[Path]) -> None:
    """Every item that is not done yet and for which there is time. An error of CUDA ends the process: after one,
    nothing that it still answers can be trusted."""
    until = time.monotonic() + seconds
    scale = TINY if dry else GPU
    environment.resolve_device(scale.device)
    journal, bench = Journal(folder), Bench(scale, folder, tuple(gguf))
    done = journal.done()
    if "suite/environment" not in done:
        here = environment.describe(scale.device).model_dump()
        journal.end(Entry(part="suite", name="suite/environment", status="ok", values={**here, **bench.facts()}))
    items = list(all_items(bench, only))
    gc.freeze()  # what is there by now stays, and need not be looked through after every item
    try:
        with torch.no_grad():
            for item in items:
                if item.name in done or item.seconds > until - time.monotonic():
                    continue
                journal.begin(item.part, item.name, item.limit)
                entry = run(item, bench)
                journal.end(entry)
                if entry.status == "failed" and _is_of_cuda(entry.reason):
                    raise Spoiled(f"{item.name}: {entry.reason}")
    finally:
        gc.unfreeze()


def run(item: Item, bench: Bench) -> Entry:
    """One item. What it raises is what was found."""
    begun, values, reason = time.monotonic(), dict[str, Any](), ""
    try:
        values = item.act(bench)
        status = "ok"
    except (UsageError, ImportError, ValueError) as error:
        status, reason = "refused", _line(error)
    except Exception as error:  # noqa: BLE001  whatever a kernel raises is written down, and the suite goes on
        status, reason = "oom" if is_out_of_memory(error) else "failed", _line(error)
    bench.tidy()
    gc.collect()
    took = time.monotonic() - begun
    return Entry(part=item.part, name=item.name, status=status, reason=reason, seconds=took, values=values)  # pyright: ignore[reportArgumentType]


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _is_of_cuda(reason: str) -> bool:
    return any(words in reason for words in ("CUDA error", "CUBLAS_STATUS_EXECUTION", "device-side assert"))
