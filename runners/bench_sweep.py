"""How long it takes before and after the work: help, planning, resuming, merging. Each in processes of its own, as a
person starts them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, environment
from kvfrontier.runners.environment import describe
from kvfrontier.runners.record import Environment, Memory, MethodInfo, Quality, Quartiles, Record, Score, Time
from kvfrontier.runners.sweep.cells import plan

#: 50 methods at 10 contexts, and as many with 20 seeds.
_METHODS = (
    "dense,window,sinks,h2o,tova,snapkv,pyramidkv,adakv,keydiff,keynorm,expected_attention,random,paged,offloaded,"
    "kivi8,kivi4,kivi2,int8,int4,int2,mixed,fp8,fp8_e5m2,rotated,turboquant,kvquant,think,palu,gear,moving_average,"
    "moving_average_weighted,compressive,transformer_xl,look_m,cam,infini,infini_delta,ntk,yarn,self_extend,"
    "lm_infinite,quest,infllm,memorizing,duo,longformer,bigbird,linear,performer,gla"
)
_CONTEXTS = "512,768,1024,1280,1536,1792,2048,2560,3072,4096"
_PLANNED = (f"method={_METHODS}", f"context={_CONTEXTS}", "task=perplexity", "tracker=none", "device=cpu")
_RECORDED = (*_PLANNED, f"seed={','.join(map(str, range(20)))}")

#: Wall time of a sweep until it knows which cells are missing, Python's start included.
_RESUME = """
import sys
from pathlib import Path
from kvfrontier.runners import compose
compose.register()
from kvfrontier.runners.sweep.cells import plan
found = plan(sys.argv[2:], [], Path(sys.argv[1]))
print(len(found.cells), len(found.jobs))
"""
#: A merge, and the most memory that it had, in KiB.
_MERGE = """
import resource, sys
from pathlib import Path
from kvfrontier.runners.merge import merge
found = merge([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]))
print(sum(found.records.values()), found.repeated, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Row(BaseModel):
    """One measurement, median and quartiles of `n`, in `unit`; `goal` what it must not exceed, where there is one."""

    what: str
    value: float
    q1: float | None = None
    q3: float | None = None
    n: int = 1
    unit: str = "s"
    goal: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached."""
        return None if self.goal is None else self.value <= self.goal


class Benchmark(BaseModel):
    """All rows of one run, and where it ran."""

    environment: Environment
    rows: list[Row]


def run(records: int, repetitions: int, say: Callable[[str], None]) -> Benchmark:
    """Measure everything: a merge of `records` records, the others `repetitions` times."""
    compose.register()
    with tempfile.TemporaryDirectory(prefix="kvfrontier-bench-") as folder:
        work = Path(folder)
        rows = [*_starts(work, repetitions, say), _resume(work, repetitions, say)]
        for count in (records // 10, records):
            rows += _merge(work, count, say)
    return Benchmark(environment=describe("cpu"), rows=rows)


def _starts(work: Path, repetitions: int, say: Callable[[str], None]) -> Iterator[Row]:
    command = [sys.executable, "-m", "kvfrontier.runners.cli"]
    say("help")
    yield _timed("kvfrontier --help", [*command, "--help"], repetitions, goal=1.0)
    say("a dry run")
    dry = [*command, "run", "-m", *_PLANNED, f"results={work / 'none'}", "--dry-run"]
    own = {"KVFRONTIER_CACHE": str(work / "cache")}
    yield _timed(
        "a dry run of 500 cells, the first of all", dry, 1, own, note="makes what later ones find in the cache"
    )
    yield _timed("a dry run of 500 cells", dry, repetitions, own, goal=3.0)


def _resume(work: Path, repetitions: int, say: Callable[[str], None]) -> Row:
    say("10,000 records")
    found = plan(_RECORDED, [], work / "none")
    for members in found.grouped(found.cells):
        lines = (_record(cells.method_label(p.cell), p.id, p.cell).model_dump_json() for p in members)
        _write(work / "resumed" / f"{cells.method_label(members[0].cell)}.jsonl", lines)
    say("resuming")
    command = [sys.executable, "-c", _RESUME, str(work / "resumed"), *_RECORDED]
    what = f"a sweep over {len(found.cells):,} records, until it knows what is missing"
    return _timed(what, command, repetitions, goal=2.0)


def _merge(work: Path, count: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Two folders of which a tenth is in both, on two devices."""
    say(f"{count:,} records to merge")
    base = plan(("method=dense", "context=512", "task=perplexity", "device=cpu"), [], work / "none").cells[0]
    line = _record("dense", "ID", base.cell).model_dump_json()
    device = environment.device_name("cpu")
    half, folders = count // 2, [work / f"a{count}", work / f"b{count}"]
    for start, folder in zip((0, half - count // 10), folders, strict=True):
        for file in range(10):
            rows = range(start + file * half // 10, start + (file + 1) * half // 10)
            of = (line.replace('"id":"ID"', f'"id":"{i:064x}"') for i in rows)
            _write(
                folder / f"{file}.jsonl", (x.replace(device, f"device {i % 2}") for i, x in zip(rows, of, strict=True))
            )
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    say(f"merging {count:,} records")
    begun = time.perf_counter()
    told = _told([sys.executable, "-c", _MERGE, str(work / f"m{count}"), *map(str, folders)])
    seconds = time.perf_counter() - begun
    kept, repeated, peak = map(int, told.split())
    note = f"{size / 1e9:.1f} GB; {kept:,} stand, {repeated:,} repeat them"
    yield Row(what=f"a merge of {count:,} records", value=seconds, note=note)
    yield Row(what=f"memory of a merge of {count:,} records", value=peak / 2**10, unit="MiB", note="resident, at most")
    for folder in (*folders, work / f"m{count}"):
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def _record(label: str, id: str, cell: cells.Cell) -> Record:
    """A record as large as one of perplexity: what a merge carries along."""
    texts = tuple({"text": "x" * 400, "nll": 3.1, "kl": 0.02, "agreement": 0.9} for _ in range(4))
    quality = Quality(
        status="ok",
        repetitions=1,
        task=cell.task["name"],
        primary="agreement",
        scores={name: Score(value=0.5, n=8, low=0.4, high=0.6) for name in ("agreement", "kl", "nll", "perplexity")},
        samples=texts,
    )
    seconds = Quartiles(median=1.0, q1=0.9, q3=1.1, n=3)
    return Record(
        id=id,
        created="2026-01-01T00:00:00+00:00",
        cell=cell,
        info=MethodInfo(family="bench", label=label),
        method_hash="0" * 64,
        protocol_hash="0" * 64,
        environment=describe("cpu"),
        config={"seed": cell.seed},
        quality=quality,
        memory=Memory(status="ok", live_payload=1 << 20, peak=1 << 30),
        time=Time(status="ok", repetitions=3, warmups=1, decoded_tokens=4, prefill=seconds, decode=seconds),
        seconds=12.5,
    )


def _write(file: Path, lines: Iterator[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        out.writelines(f"{line}\n" for line in lines)


def _timed(
    what: str,
    command: Sequence[str],
    n: int,
    more: dict[str, str] | None = None,
    goal: float | None = None,
    note: str = "",
) -> Row:
    seconds = []
    for _ in range(n):
        begun = time.perf_counter()
        _told(command, more)
        seconds.append(time.perf_counter() - begun)
    if n == 1:
        return Row(what=what, value=seconds[0], goal=goal, note=note)
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Row(what=what, value=median, q1=q1, q3=q3, n=n, goal=goal, note=note)


def _told(command: Sequence[str], more: dict[str, str] | None = None) -> str:
    """What a command prints. Raises RuntimeError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(more or {})})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def write(found: Benchmark, folder: Path) -> tuple[Path, Path]:
    """bench_sweep.json and bench_sweep.md in a folder."""
    data, page = folder / "bench_sweep.json", folder / "bench_sweep.md"
    data.write_text(json.dumps(found.model_dump(), indent=1) + "\n")
    here = found.environment
    lines = [
        "# Before and after the work",
        "",
        f"{here.device_name}, {os.cpu_count()} cores, Python {here.python}, torch {here.torch}.",
        "Wall time of whole processes, Python's start included. Again: `kvfrontier bench-sweep -o DIR`.",
        "",
        "| What | Measured | Quartiles | n | Goal | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in found.rows:
        quartiles = "" if row.q1 is None else f"{row.q1:.2f} to {row.q3:.2f}"
        goal = "" if row.goal is None else f"{row.goal:g} {row.unit}{'' if row.holds else ' **missed**'}"
        digits = 0 if row.unit == "MiB" else 2
        lines.append(
            f"| {row.what} | {row.value:,.{digits}f} {row.unit} | {quartiles} | {row.n} | {goal} | {row.note} |"
        )
    page.write_text("\n".join(lines) + "\n")
    return data, page
