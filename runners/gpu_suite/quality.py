"""(e) The embedded model's quality in half precision: the same cells as on any machine, and their records."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from kvfrontier.runners import record
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.checks import Found
from kvfrontier.runners.gpu_suite.items import Item


def items(bench: Bench) -> Iterator[Item]:
    """One method after the other; the prefix store is theirs together."""
    for name in bench.scale.quality_methods:
        act = functools.partial(sweep, name=name)
        yield Item("quality", f"quality/{name}", act, 43, 12.0, 240.0)


def sweep(bench: Bench, name: str) -> Found:
    """`kvfrontier run` of one method, its records appended to the suite's own file."""
    from kvfrontier.runners import cli

    if bench.gguf:
        from kvfrontier.runners.models.embedded import prepare

        prepare("smollm2-135m", pieces=bench.gguf)
    s = bench.scale
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        words = [*s.quality, f"method={name}", f"dtype={s.dtype}", f"device={s.device}", "meter.repetitions=3"]
        code = cli.main(["run", "-m", *words, "results=records", "hydra.sweep.dir=multirun"])
        records = record.load_records(Path(folder) / "records") if os.path.isdir("records") else []
        for one in records:
            record.append(bench.folder / "records.jsonl", one)
    if not records:
        raise ValueError(f"kvfrontier run ended with exit code {code} and left no record")
    failed = [f"{one.cell.task['name']}: {block.reason}" for one in records
              for block in (one.quality, one.memory, one.time) if block.status == "failed"]  # fmt: skip
    if failed:
        raise RuntimeError("; ".join(failed)[:400])
    return {one.cell.task["name"]: {key: score.value for key, score in one.quality.scores.items()} for one in records}
