"""A job: cells that share a model and a method, run one after the other in one process. What Hydra launches."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, progress
from kvfrontier.runners.placement import placed
from kvfrontier.runners.record import Cell, Record, append, canonical_json, check_writable, content_hash
from kvfrontier.runners.sweep import claims, crew, stop
from kvfrontier.runners.sweep.present import briefs
from kvfrontier.runners.sweep.run import ELSEWHERE
from kvfrontier.runners.tracker import track


def run(config: DictConfig) -> str | None:
    """Run the cells that `config.cells` lists, each by the overrides of its own, and append a record for each at once,
    so that whatever ends this process loses no more than the cell that it ends in. A job that is started again, as
    Slurm does with one that it had to stop, goes on with the cells that have no record.

    Returns ELSEWHERE where another process is at work on them, unless `config.sweep.wait`."""
    compose.register()
    hydra = HydraConfig.get()
    fixed = [o for o in hydra.overrides.task if not o.lstrip("+").startswith(("cells=", "sweep."))]
    search = compose.search_path(hydra)
    composer = compose.Composer(fixed, search)
    todo = []
    for own in config.cells or [[]]:
        c = composer(own).config
        del c["cells"], c["sweep"]
        found = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
        todo.append(Todo(cells.describe(c, refuse=False), c, shlex.join(["kvfrontier", "run", *found, *fixed, *own])))
    results, first = check_writable(config.results), todo[0].cell
    file = records_file(results, first, config.sweep.shard)
    # One process for all jobs has the first GPU, and has begun to use it.
    spread = hydra.runtime.choices["hydra/launcher"] != "basic"
    with (
        stop.heard(),
        placed([t.cell for t in todo], todo[0].config["model"], spread=spread),
        claims.claimed(results, file.stem, wait=config.sweep.wait) as claim,
    ):
        if claim is None:
            return ELSEWHERE
        _run(todo, file, claim, crew.of(config.worker))
    return None


@dataclass(frozen=True)
class Todo:
    """A cell, its composed configuration, and what runs it again."""

    cell: Cell
    config: Mapping[str, Any]
    command: str


def _run(todo: Sequence[Todo], file: Path, claim: claims.Claim, own: crew.Crew) -> None:
    there = {key for key, r in briefs(file).items() if r.status != "failed"}
    missing = [t for t in todo if cells.identify(t.cell) not in there]
    if not missing:
        return
    bar, first = progress.cell_bar(), missing[0]
    shared = first.cell.model_dump(include={"model", "dtype", "device", "method"})
    with track(first.config["tracker"], name=file.stem, config=shared, folder=file.parent) as tracker:
        for t in missing:
            name = cells.name(t.cell)

            def say(what: str, name: str = name) -> None:
                if bar:
                    bar.say(f"{name}: {what}")

            claim.tell(name)
            record = own.run(t.cell, t.config, say).model_copy(update={"command": t.command})
            with stop.patiently():
                claim.check()
                _keep(file, record)
            tracker.log(record)
            if bar:
                bar.advance(t.cell.context)
            stop.check()


class NotRecorded(RuntimeError):
    """A record could not be written."""


def _keep(file: Path, record: Record) -> None:
    try:
        append(file, record)
    except OSError as error:
        raise NotRecorded(
            f"cannot write to {file} ({error.strerror}); make room for it, or name another folder with results=DIR; "
            "what is recorded is kept, and the same command goes on from there"
        ) from error


def records_file(results: Path, cell: Cell, shard: str | None = None) -> Path:
    """Where the records of the cell's job go: a readable name, and a hash of all that the job's cells share; and which
    part of a sweep it is, where parts share a job."""
    key = content_hash(canonical_json([cell.model, cell.dtype, cell.device, cell.asked]))[:8]
    part = "-" + shard.replace("/", "of") if shard else ""
    return results / f"{_plain(cell.model)}-{_plain(cells.method_label(cell))}-{key}{part}.jsonl"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")[-60:]
