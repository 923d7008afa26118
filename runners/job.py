"""A job: cells that share a model and a method, run one after the other in one process. What Hydra launches."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, progress
from kvfrontier.runners.record import Cell, append, canonical_json, content_hash
from kvfrontier.runners.tracker import track


def run(config: DictConfig) -> None:
    """Run the cells that `config.cells` lists, each by the overrides of its own, and append a record for each at once,
    so that whatever ends this process loses no more than the cell that it ends in."""
    compose.register()
    hydra = HydraConfig.get()
    fixed = [o for o in hydra.overrides.task if not o.startswith("cells=")]
    composer = compose.Composer(fixed, compose.search_path(hydra))
    configs = [composer(overrides).config for overrides in config.cells or [[]]]
    for c in configs:
        del c["cells"]
    first = cells.describe(configs[0], refuse=False)
    bench = cells.Bench(first, configs[0]["model"])
    file = records_file(Path(config.results), first)
    bar = progress.cell_bar()
    shared = {key: value for key, value in first.model_dump().items() if key in ("model", "dtype", "device", "method")}
    with track(configs[0]["tracker"], name=file.stem, config=shared, folder=file.parent) as tracker:
        for c in configs:
            cell = cells.describe(c, refuse=False)
            name = f"{cells.method_label(cell)} {cells.task_label(cell)} {cell.context}"

            def say(what: str, name: str = name) -> None:
                if bar:
                    bar.say(f"{name}: {what}")

            record = bench.run(cell, c, say)
            append(file, record)
            tracker.log(record)
            if bar:
                bar.advance(cell.context)


def records_file(results: Path, cell: Cell) -> Path:
    """Where the records of the cell's job go: a readable name, and a hash of all that the job's cells share."""
    key = content_hash(canonical_json([cell.model, cell.dtype, cell.device, cell.asked]))[:8]
    return results / f"{_plain(cell.model)}-{_plain(cells.method_label(cell))}-{key}.jsonl"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")[-60:]
