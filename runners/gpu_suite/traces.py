"""(f) Profiles of the slowest: what a decoded token and a chunk of a prompt spend their time on."""

from __future__ import annotations

import functools
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from kvfrontier.runners.gpu_suite import families
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.checks import Found
from kvfrontier.runners.gpu_suite.items import Item
from kvfrontier.runners.gpu_suite.journal import MOST_BYTES, Journal
from kvfrontier.runners.session import Session

#: How many, and the lines of each that the journal keeps.
TRACES, LINES = 2, 12


def items(bench: Bench) -> Iterator[Item]:
    """Which are slowest is found when their turn comes."""
    for i in range(1 if bench.scale.dry else TRACES):
        yield Item("traces", f"traces/{i}", functools.partial(trace, place=i), 56, 10.0, 90.0)


def slowest(bench: Bench, place: int) -> tuple[str, int]:
    """Of what was measured side by side, at lengths whose prompts are read: the method, of those with kernels and
    without, whose decoded token takes longest for the bytes that it reads."""
    found = []
    for entry in Journal(bench.folder).entries().values():
        if entry.part == "families" and entry.status == "ok":
            _, name, context = entry.name.split("/")
            if int(context) <= bench.scale.most_prefill:
                found.append((entry.values["mbu"], name, int(context)))
    if len(found) <= place:
        raise ValueError("nothing was measured side by side yet: run the part families first")
    distinct = {name: (name, context) for _, name, context in sorted(found, reverse=True)}
    return list(reversed(distinct.values()))[min(place, len(distinct) - 1)]


def trace(bench: Bench, place: int) -> Found:
    """Three decoded tokens after a prompt, as a Chrome trace of less than a file may have, and the longest lines."""
    name, context = slowest(bench, place)
    model, method, ids = bench.model(bench.scale.layers), families.built(name), bench.ids(context + 6)
    with Session(model, method) as session:
        session.bridge.max_positions = None
        if context > bench.scale.most_prefill and method.adopts == "kv":
            families.fill(bench, session, context)
        else:
            session.prefill(ids[:, :context], chunk=bench.scale.chunk)
        for i in range(3):
            session.decode(ids[:, context + i])
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.on_cuda
        with profile(activities=activities) as seen:
            for i in range(3):
                session.decode(ids[:, context + 3 + i])
            bench.now()
    target = bench.folder / f"trace-{place}.json.gz"
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    if target.stat().st_size >= MOST_BYTES:
        target.unlink()
    key = "self_device_time_total" if bench.on_cuda else "self_cpu_time_total"
    lines = sorted(seen.key_averages(), key=lambda line: -getattr(line, key))[:LINES]
    return {
        "method": name, "context": context, "file": target.name if target.exists() else None,
        "longest": [{"name": line.key[:80], "calls": line.count, "us": getattr(line, key)} for line in lines],
    }  # fmt: skip
