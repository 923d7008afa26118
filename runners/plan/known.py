"""Predicted peaks that the user's cache has, found without loading transformers: of hundreds of cells, in a second."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from kvfrontier.methods import registry
from kvfrontier.runners.cache import cache_dir, read_json
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.record import Parts, content_hash


def file(run: Run, configuration: Mapping[str, Any]) -> Path:
    """Where the cache keeps the peaks of a run: under a hash of all that they depend on. `configuration`: the model's,
    of transformers, as plain data."""
    determining = [
        configuration,
        run.dtype,
        dict(run.method),
        [run.batch, run.prompt, run.new, run.chunk, run.logits],
        registry.source_hash(run.method),
        _own_source(),
        [metadata.version("torch"), metadata.version("transformers")],
    ]
    return cache_dir() / "plan" / f"{content_hash(determining)}.json"


def peak(run: Run, configuration: Mapping[str, Any]) -> tuple[int, str] | None:
    """The larger of a run's two peaks in bytes, weights included, or why the method has none; None where the cache does
    not know it."""
    found = read_json(file(run, configuration))
    if not found:
        return None
    parts = [Parts.model_validate(found[key]) for key in ("prefill_parts", "decode_parts")]
    return max(p.device + p.host for p in parts), found["why"]


@cache
def _own_source() -> str:
    """The source of what makes a model's skeleton, runs a method on it, and counts."""
    folder = Path(__file__).parents[1]
    names = ("bridge.py", "session.py", "rows.py", "peak.py", "plan/peaks.py", "plan/shorter.py", "plan/sizes.py")
    files = [*(folder / name for name in names), *sorted((folder / "models").glob("*.py"))]
    return content_hash([file.read_text(encoding="utf-8") for file in files])
