"""What the store is worth: the time of quality cells with it and without, and of a whole sweep beside one process a
cell. Ratios of one run on one machine, theirs over ours: how many times faster.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, environment
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.prefix.files import PrefixFiles
from kvfrontier.runners.prefix.settings import open_files
from kvfrontier.runners.record import Environment, load_records
from kvfrontier.runners.sweep.cells import plan
from kvfrontier.runners.tasks import perplexity

#: Choices of configs/method whose prefill is dense, several of each kind that there is.
METHODS = ("dense", "snapkv", "pyramidkv", "adakv", "keydiff", "kivi2", "int4", "quest")
TASKS = ("perplexity", "needle")
#: What can be measured alone.
PARTS = ("cells", "sweep")


class Row(BaseModel):
    """One comparison: seconds without and with, and how many times faster it must be at least."""

    claim: str
    without: float
    with_store: float
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.without / self.with_store

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        return None if self.goal is None else self.ratio >= self.goal


class Benchmark(BaseModel):
    """All rows of one run, and where it ran."""

    environment: Environment
    model: str
    rows: list[Row]


def run(
    say: Callable[[str], None],
    *,
    words: Sequence[str] = (),
    context: int = 2048,
    sweep: str = "quickstart",
    only: Sequence[str] = PARTS,
) -> Benchmark:
    """Measure both parts, or those that `only` names. `words` are overrides for every cell, as model=tiny.

    Raises UsageError for what does not exist, and RuntimeError where a cell has no result: times of failures compare
    with nothing.
    """
    if unknown := sorted(set(only) - set(PARTS)):
        raise UsageError(f"prefix bench has no part {unknown[0]!r}; choose of {', '.join(PARTS)}")
    compose.register()
    config = compose.Composer([*words, "tracker=none"])([]).config
    rows: list[Row] = []
    if "cells" in only:
        rows += _cells(words, context, say)
    if "sweep" in only:
        rows.append(_sweep(words, sweep, say))
    here = environment.describe(config["device"])
    return Benchmark(environment=here, model=cells.model_name(config["model"]), rows=rows)


def _cells(words: Sequence[str], context: int, say: Callable[[str], None]) -> Iterator[Row]:
    """The quality passes of all METHODS, the loaded model shared, without a store and with one that begins empty."""
    totals = [0.0, 0.0]
    for task in TASKS:
        spent = [0.0, 0.0]
        with tempfile.TemporaryDirectory(prefix="kvfrontier-prefix-") as folder:
            stores = (None, open_files({"prefix_store": folder}))
            for kind, files in enumerate(stores):
                # What dense attention says to a passage is shared by the methods of one process, with a store or not.
                perplexity.forget_references()
                for n, method in enumerate(METHODS):
                    say(f"{task} with {method}, {('without', 'with')[kind]} the store ({n + 1}/{len(METHODS)})")
                    cell = [*words, f"method={method}", f"task={task}", f"context={context}"]
                    spent[kind] += _quality(cell, files)
        totals = [a + b for a, b in zip(totals, spent, strict=True)]
        claim = f"quality cells of {len(METHODS)} methods, {task} at {context}"
        yield Row(claim=claim, without=spent[0], with_store=spent[1], note=", ".join(METHODS))
    claim = f"quality cells of {len(METHODS)} dense-prefill methods at {context}, the model shared"
    yield Row(claim=claim, without=totals[0], with_store=totals[1], goal=3, note=", ".join(TASKS))


def _quality(words: Sequence[str], files: PrefixFiles | None) -> float:
    """Seconds of one cell's quality pass."""
    config: Mapping[str, Any] = compose.Composer([*words, "tracker=none"])([]).config
    cell = cells.describe(config)
    bench = cells.Bench(cell, config["model"])
    assert bench.loaded  # before the clock runs
    begun = time.perf_counter()
    found = bench.quality(cell, files, lambda _: None)
    seconds = time.perf_counter() - begun
    if found.status != "ok":
        raise RuntimeError(f"{cells.name(cell)} has no score: {found.status}: {found.reason}")
    if found.prefix_store != (files is not None):
        raise RuntimeError(f"{cells.name(cell)} did not do with the store as it was asked")
    return seconds


def _sweep(words: Sequence[str], sweep: str, say: Callable[[str], None]) -> Row:
    """A sweep in one command, its store empty at first, beside a process for every cell and no store."""
    axes, exclude = _axes(sweep)
    with tempfile.TemporaryDirectory(prefix="kvfrontier-prefix-") as scratch:
        planned = plan([f"+sweep={sweep}", *words, *axes], exclude, Path(scratch) / "none")
        singles = [[*planned.fixed, *c.overrides] for c in planned.cells]
        say(f"sweep {sweep}, {len(singles)} cells in one command")
        whole = ["-m", f"+sweep={sweep}", *words, f"prefix_store={scratch}/prefix", f"results={scratch}/ours"]
        ours = _command(whole)
        theirs = 0.0
        for n, single in enumerate(singles):
            say(f"sweep {sweep}, a process for each cell: {n + 1}/{len(singles)}")
            theirs += _command(["-m", *single, "prefix_store=off", f"results={scratch}/theirs"])
        found = [{r.id: r.status for r in load_records(Path(scratch) / name)} for name in ("ours", "theirs")]
        if found[0] != found[1] or "failed" in found[0].values():
            raise RuntimeError("the two runs of the sweep did not come to the same cells; nothing is compared")
    return Row(claim=f"sweep {sweep} ({len(singles)} cells) beside a process a cell", without=theirs, with_store=ours,
               goal=5)  # fmt: skip


def _axes(sweep: str) -> tuple[list[str], list[Mapping[str, Any]]]:
    """The axes of a sweep's YAML, and what it leaves out."""
    file = resources.files("kvfrontier.configs").joinpath(f"sweep/{sweep}.yaml")
    if not file.is_file():
        raise unknown("sweep", sweep, compose.names("sweep"))
    sweeper = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["sweeper"]
    axes = {key: value if isinstance(value, list) else [value] for key, value in sweeper["params"].items()}
    return [f"{key}={','.join(map(str, values))}" for key, values in axes.items()], sweeper.get("exclude", [])


def _command(words: Sequence[str]) -> float:
    """Seconds of one `kvfrontier run`. Exit code 1 says that a cell has no result, which is compared later."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "kvfrontier.runners.cli", "run", *words, "tracker=none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(f"kvfrontier run {' '.join(words)}: {said[-1]}")
    return time.perf_counter() - begun


def write(benchmark: Benchmark, folder: Path) -> Path:
    """prefix_bench.json and prefix_bench.md in `folder`; returns the page."""
    (folder / "prefix_bench.json").write_text(benchmark.model_dump_json(indent=1) + "\n")
    here = benchmark.environment
    lines = [
        "# What the prefix store is worth",
        "",
        f"{benchmark.model} on {here.device_name}, {here.threads} threads, torch {here.torch}.",
        "Seconds of one run; the store begins empty. Again: `kvfrontier prefix bench`.",
        "",
        "| What | Without | With | Times faster | Goal | Reached | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in benchmark.rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        reached = {None: "", True: "yes", False: "no"}[row.holds]
        lines.append(
            f"| {row.claim} | {row.without:.1f} s | {row.with_store:.1f} s | {row.ratio:.2f} | {goal} | {reached} | "
            f"{row.note} |"
        )
    page = folder / "prefix_bench.md"
    page.write_text("\n".join(lines) + "\n")
    return page
