"""The trained track: models that were trained with a method each, what they then score, what their state held
meanwhile, and what the training cost. One table for each task, machine and way of training; its rows are methods and
sizes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from kvfrontier.analysis.boards import labels
from kvfrontier.analysis.rows import FAMILIES, STATUS_WORDS, Setting, canonical
from kvfrontier.analysis.style import number, size
from kvfrontier.runners.record import MethodInfo, Record, Training

DASH = "\N{EN DASH}"
_EXPLAINED = (
    "Each model was trained with its method from random weights, and is asked texts that it has not seen. State: bytes "
    "that the method's state, and that of a model's own convolutions, held in one text when its last token had been "
    "scored, measured, mean over the tests. Steps, tokens, seconds and FLOPs are those of the learning rate that was "
    "best on validation texts; FLOPs are of products of matrices, forward and backward."
)


@dataclass(frozen=True)
class Test:
    """One shape of text: its length, and what else tells it from other tests."""

    context: int
    more: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """`64; 4 pairs`."""
        return "; ".join([f"{self.context:,}", *(f"{value} {key}" for key, value in self.more)])


@dataclass(frozen=True)
class Trained:
    """One method at one size of model, over its seeds: the records of each test."""

    method: str
    model: str
    info: MethodInfo
    records: dict[Test, tuple[Record, ...]]

    def score(self, test: Test) -> float | None:
        """Mean over seeds of the primary score, or None."""
        found = [r.quality.scores[r.quality.primary].value for r in self.records.get(test, ()) if r.quality.scores]
        return statistics.fmean(found) if found else None

    def mean(self, tests: Sequence[Test]) -> float | None:
        """Mean over tests; None where one has no score."""
        found = [self.score(test) for test in tests]
        known = [value for value in found if value is not None]
        return statistics.fmean(known) if known and len(known) == len(found) else None

    @cached_property
    def state(self) -> float | None:
        """Bytes of state at the end of a text, mean over tests."""
        held = [r.quality.state.final_payload for r in self._all if r.quality.state]
        return statistics.fmean(held) if held else None

    @property
    def training(self) -> Training | None:
        """Of the first seed."""
        return next((r.training for r in self._all if r.training), None)

    @property
    def status(self) -> str:
        """Empty where all is well; else why not."""
        bad = next((r for r in self._all if r.quality.status != "ok"), None)
        if bad is None:
            return ""
        return f"{STATUS_WORDS.get(bad.quality.status, bad.quality.status)}: {bad.quality.reason}"

    @property
    def seeds(self) -> int:
        """How many trainings stand behind the row."""
        return len({r.cell.seed for r in self._all})

    @property
    def _all(self) -> list[Record]:
        return [r for records in self.records.values() for r in records]


@dataclass(frozen=True)
class Track:
    """Trainings that may stand in one table: one task, one machine, one way of training."""

    setting: Setting
    task: str
    model: str
    primary: str
    tests: tuple[Test, ...]
    chance: dict[Test, float]
    rows: tuple[Trained, ...]

    @property
    def higher_is_better(self) -> bool:
        """Accuracy is, perplexity is not."""
        return self.primary == "accuracy"

    @property
    def lines(self) -> list[list[str]]:
        """The table: its heads, then its rows."""
        heads = [
            "method", "model", "state", f"mean {self.primary}", *(test.name for test in self.tests), "seeds", "lr",
            "steps", "tokens", "seconds", "FLOPs", "parameters",
        ]  # fmt: skip
        return [heads, *(self._line(row) for row in self.rows)]

    def _line(self, row: Trained) -> list[str]:
        scores = [number(row.score(test)) or DASH for test in self.tests]
        training = row.training
        cost = [DASH] * 6
        if training:
            cost = [
                f"{training.lr:g}", f"{training.steps:,}", f"{training.tokens:,}", f"{training.seconds:,.0f}",
                f"{training.flops:.2e}", f"{training.parameters:,}",
            ]  # fmt: skip
        mean = row.status or number(row.mean(self.tests)) or DASH
        return [row.method, row.model, size(row.state) or DASH, mean, *scores, str(row.seeds), *cost]

    @property
    def markdown(self) -> list[str]:
        """A section of the leaderboard."""
        heads, *rows = self.lines
        guess = sorted({f"{value:.2g}" for value in self.chance.values()})
        out = [f"## Trained: {self.task}, {self.model} on {self.setting.machine}", "", _EXPLAINED]
        if guess:
            out[-1] += f" A guess scores {', '.join(guess)}."
        out += ["", "| " + " | ".join(heads) + " |", "|" + " --- |" * 2 + " ---: |" * (len(heads) - 2)]
        return [*out, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def trained(records: Iterable[Record]) -> list[Track]:
    """The tracks of all records that have a training; those of the newest code of each method."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted((r for r in records if r.cell.training), key=lambda r: (r.created, r.id)):
        groups[_group(record)].append(record)
    return sorted((_track(found) for found in groups.values()), key=lambda t: (-len(t.rows), t.task, t.model))


def _group(record: Record) -> str:
    cell, setting = record.cell, Setting.of(record)
    training = {key: value for key, value in (cell.training or {}).items() if key != "model"}
    where = [setting.device, setting.threads, setting.torch, setting.dtype]
    return canonical([_base(cell.model), _fixed(record), training, where])


def _base(model: str) -> str:
    """The model's name without its sizes."""
    return model.split("(")[0].strip()


def _fixed(record: Record) -> dict[str, object]:
    """The task's parameters but for its shape, which the trained ones name."""
    varied = set(_shape_keys(record)) | {"length"}
    return {key: value for key, value in record.cell.task.items() if key not in varied}


def _shape_keys(record: Record) -> list[str]:
    shapes = (record.cell.training or {}).get("shapes") or [{}]
    return [key for key in shapes[0] if key not in ("length", "examples")]


def _test(record: Record) -> Test:
    return Test(record.cell.context, tuple((key, record.cell.task[key]) for key in _shape_keys(record)))


def _track(records: list[Record]) -> Track:
    names = labels(records)
    newest = {canonical(r.cell.asked): r.method_hash for r in records}
    current = [r for r in records if newest[canonical(r.cell.asked)] == r.method_hash]
    rows: dict[tuple[str, str], dict[Test, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in current:
        rows[names[canonical(record.cell.asked)], _sizes(record)][_test(record)][record.cell.seed] = record
    tests = sorted({test for row in rows.values() for test in row}, key=lambda t: (t.context, t.more))
    infos = {names[canonical(r.cell.asked)]: r.info for r in current}
    made = [
        Trained(method, model, infos[method], {test: tuple(by_seed.values()) for test, by_seed in found.items()})
        for (method, model), found in rows.items()
    ]
    place = {family: i for i, family in enumerate(FAMILIES)}
    made.sort(key=lambda row: (place.get(row.info.family, len(place)), row.info.label, row.state or 0, row.method))
    good = [r for r in current if r.quality.status == "ok"]
    return Track(
        setting=Setting.of(current[-1]),
        task=str(current[0].cell.task["name"]),
        model=_base(current[0].cell.model),
        primary=good[0].quality.primary if good else "score",
        tests=tuple(tests),
        chance={_test(r): r.quality.chance for r in good if r.quality.chance is not None},
        rows=tuple(made),
    )


def _sizes(record: Record) -> str:
    """Of the model's sizes, those that sweeps vary."""
    sizes = (record.cell.training or {}).get("model") or {}
    return ", ".join(f"{key} {sizes[key]}" for key in ("width", "heads", "layers") if key in sizes) or record.cell.model


def table(tracks: Sequence[Track]) -> pl.DataFrame:
    """Every score of every track, a line each, with raw numbers."""
    lines = [
        {
            "task": track.task, "model": track.model, "sizes": row.model, "method": row.method,
            "family": row.info.family, "device": record.environment.device_name, "context": test.context,
            "shape": "; ".join(f"{key}={value}" for key, value in test.more), "seed": record.cell.seed,
            "score": name, "value": score.value, "low": score.low, "high": score.high, "n": score.n,
            "chance": record.quality.chance,
            "state_bytes": record.quality.state.final_payload if record.quality.state else None,
            "lr": record.training.lr if record.training else None,
            "steps": record.training.steps if record.training else None,
            "tokens": record.training.tokens if record.training else None,
            "seconds": record.training.seconds if record.training else None,
            "flops": float(record.training.flops) if record.training else None,
            "record": record.id,
        }
        for track in tracks
        for row in track.rows
        for test, records in row.records.items()
        for record in records
        for name, score in record.quality.scores.items()
    ]  # fmt: skip
    return pl.DataFrame(lines, infer_schema_length=None)
