"""What published comparisons measure without running a model: simulated allocators, a quantizer's error, sizes.

A measurement is a function of a case's parameters that gives independent numbers, one a seed; one number where nothing
is drawn. What came of it is one JSON file, as a record is a line.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from kvfrontier.analysis.reproduce.comparison import Comparison
from kvfrontier.analysis.reproduce.evidence import Evidence, missing
from kvfrontier.methods.stores import rotation, turboquant
from kvfrontier.methods.stores.turboquant import TurboQuantStore
from kvfrontier.runners import allocators, budget, compose, models
from kvfrontier.runners.allocators import published
from kvfrontier.runners.cache import write_whole
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import BadRecords, content_hash


@dataclass(frozen=True)
class Measure:
    """A measurement: what does it, the modules whose source decides what comes of it, and whether more is better."""

    run: Callable[..., list[float]]
    sources: tuple[Any, ...]
    higher: bool = True

    @property
    def code(self) -> str:
        """sha256 of these sources, whole packages among them."""
        files = [Path(inspect.getfile(module)) for module in self.sources]
        texts = [
            part.read_bytes()
            for file in files
            for part in (sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file])
        ]
        return hashlib.sha256(b"".join([inspect.getsource(self.run).encode(), *texts])).hexdigest()


class Measured(BaseModel):
    """What came of a comparison's measurements. `asked` is a hash of their parameters and code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    comparison: str
    created: str
    asked: str
    torch: str
    units: dict[str, dict[str, list[float]]]


def allocated(figure: str, policy: str) -> list[float]:
    """The share of the memory that holds tokens, under a policy of allocators/published.py, one for each seed."""
    return list(_figure(figure)[policy])


@lru_cache(maxsize=4)
def _figure(name: str) -> dict[str, tuple[float, ...]]:
    return {one.policy: one.ours for one in published.compare(published.figure(name))}


def rotated_error(bits: int, head_dim: int, vectors: int, seeds: int, outlier: float = 1.0) -> list[float]:
    """Squared error over squared length of vectors that TurboQuant's store rotates and codes, one for each seed.

    Vectors are normal in `head_dim` dimensions; one channel, drawn by the seed, is `outlier` times as large.
    """
    codec, _ = TurboQuantStore(bits=bits).codecs
    found = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 1, vectors, head_dim, generator=generator)
        x[..., seed % head_dim] *= outlier
        rotated = x @ TurboQuantStore(bits=bits, seed=seed).basis(head_dim, x)
        error = codec.decode(codec.encode(rotated, ()), ()) - rotated
        found.append(float(error.square().sum() / rotated.square().sum()))
    return found


def cache_bytes(model: str, tokens: int, batch: int = 1) -> list[float]:
    """Bytes that a model's own cache holds of `tokens`, at 16 bits, from its shapes alone."""
    compose.register()
    layers = models.layers(compose.choice("model", model))
    return [float(budget.dense_payload(layers, batch, tokens))]


MEASURES = {
    "allocated": Measure(allocated, (allocators,)),
    "rotated_error": Measure(rotated_error, (turboquant, rotation), higher=False),
    "cache_bytes": Measure(cache_bytes, (budget,)),
}


def missing_measures(comparison: Comparison, folder: Path) -> bool:
    """Whether something of the comparison is still to be measured."""
    wanted = _wanted(comparison)
    there = load(comparison.name, folder)
    return bool(wanted) and (there is None or there.asked != _asked(comparison, wanted))


def measure(comparison: Comparison, folder: Path, say: Callable[[str], None]) -> None:
    """Measure what a comparison asks for, and write it to the folder. Raises UsageError for what does not exist."""
    wanted = _wanted(comparison)
    units: dict[str, dict[str, list[float]]] = {}
    for view, case, made in wanted:
        say(f"{comparison.name}: {case}")
        units.setdefault(view, {})[case] = made.run(**comparison.cases[case].parameters)
    found = Measured(
        comparison=comparison.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asked=_asked(comparison, wanted),
        torch=torch.__version__,
        units=units,
    )
    write_whole(_file(comparison.name, folder), (found.model_dump_json(indent=1) + "\n").encode())


def load(name: str, folder: Path) -> Measured | None:
    """What was measured of a comparison; None where nothing was. Raises BadRecords."""
    file = _file(name, folder)
    if not file.exists():
        return None
    try:
        return Measured.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BadRecords(f"{file}: not what a measurement leaves ({error.errors()[0]['msg']}); remove it") from error


def measured(comparison: Comparison, folder: Path) -> dict[tuple[str, str], Evidence]:
    """Evidence by (view, case) of what was measured without a model."""
    there = load(comparison.name, folder)
    units: Mapping[str, Mapping[str, list[float]]] = there.units if there else {}
    found = {}
    for view, case, made in _wanted(comparison):
        numbers = units.get(view, {}).get(case)
        # Each seed draws the same for every case, so that they are compared pairwise.
        known = Evidence({f"{comparison.name} {view}": numbers}, higher=made.higher) if numbers else None
        found[view, case] = known or missing(f"not run yet: {comparison.name} {case}")
    return found


def _wanted(comparison: Comparison) -> list[tuple[str, str, Measure]]:
    found = []
    for view, case in comparison.measured():
        name = comparison.views[view].measure
        if name is None:
            continue
        if name not in MEASURES:
            raise unknown("measurement", name, MEASURES)
        try:
            inspect.signature(MEASURES[name].run).bind(**comparison.cases[case].parameters)
        except TypeError as error:
            raise UsageError(f"{comparison.name}, case {case}: {error}") from error
        found.append((view, case, MEASURES[name]))
    return found


def _asked(comparison: Comparison, wanted: list[tuple[str, str, Measure]]) -> str:
    return content_hash([[view, case, comparison.cases[case].parameters, m.code] for view, case, m in wanted])


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name}.measured.json"
