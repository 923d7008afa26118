"""A row is everything that is known of one method at one context, on one machine, side by side.

A record holds one cell: one method, one task, one context. A row joins the cells that differ in nothing but the task
and the seed. Rows that may stand in one table share a `Setting`; a `Board` is the table of one setting. boards.py makes
them from records.

Two rules keep columns honest. Scores stand in one column only under one task hash; where a task was scored in several
ways, each way is a column of its own, named by what differs ("needle (compress_at=prompt)"). Bytes and seconds stand
side by side only where they were measured on one machine, over the same number of tokens.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvfrontier.runners.record import Budget, Memory, MethodInfo, Quality, Record, Score, Status, Time

#: Families in the order of tables and legends; others follow by name.
FAMILIES = (
    "baseline", "selection", "store", "memory", "positions", "retrieval", "patterns", "recurrent", "segments",
    "sharing",
)  # fmt: skip
#: The worst first: what is shown where nothing succeeded.
WORST: tuple[Status, ...] = ("failed", "oom", "infeasible", "skipped", "ok")
#: Words that must stand beside a method, in this order. The last is no warning.
FLAGS = ("needs training", "simulated", "query-aware", "not matched", "bounded")
STATUS_WORDS = {"oom": "out of memory", "infeasible": "infeasible", "failed": "failed", "skipped": "not measured"}


@dataclass(frozen=True, order=True)
class Setting:
    """What rows must share to be compared: the model, the machine with its software, and how things were measured."""

    model: str
    revision: str
    dtype: str
    batch: int
    device: str
    device_kind: str
    threads: int
    platform: str
    python: str
    torch: str
    transformers: str
    protocol: str

    @classmethod
    def of(cls, record: Record) -> Setting:
        cell, env = record.cell, record.environment
        return cls(
            model=cell.model,
            revision=str(record.model_info.get("revision", "")),
            dtype=cell.dtype,
            batch=cell.batch,
            device=env.device_name,
            device_kind=env.device_kind,
            threads=env.threads,
            platform=env.platform,
            python=env.python,
            torch=env.torch,
            transformers=env.transformers,
            protocol=canonical(cell.protocol | _limited(record)),
        )

    @property
    def machine(self) -> str:
        """One line for figures: device, threads, precision, torch."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.device_kind == "cpu" else ""
        return f"{self.device}{threads}, {self.dtype}, torch {self.torch}"


def _limited(record: Record) -> dict[str, int]:
    """A limit is part of how a row was measured; a search says its own."""
    cell = record.cell
    return {"memory_limit": cell.memory_limit} if cell.memory_limit and not cell.search else {}


@dataclass(frozen=True)
class Column:
    """One score of one task under one task hash. `settings`: the task's parameters that go with the hash, as JSON."""

    title: str
    task: str
    task_hash: str
    settings: str
    score: str
    primary: bool
    higher_is_better: bool
    unit: str
    query_aware: bool

    @property
    def name(self) -> str:
        """The column's name in tables, unique in a report."""
        return f"{self.title}.{self.score}"

    @property
    def flags(self) -> tuple[str, ...]:
        return ("query-aware",) if self.query_aware else ()


@dataclass(frozen=True)
class Held:
    """What the state held where a score was made: a task seals where its own prompt ends.

    share   at seal, of dense attention's, both at 16 bits
    sealed  bytes at seal, as run
    final   bytes when the last token had been scored, as run
    own     whether it was measured in the runs that gave the score; else it is the memory pass's, whose prompt is a
            longer one (records of schema 1)
    """

    share: float | None
    sealed: float | None
    final: float | None
    own: bool


@dataclass(frozen=True)
class Answer:
    """What a row has in a column: a score, or why there is none. `parts` are the blocks it was pooled from."""

    status: Status
    reason: str = ""
    score: Score | None = None
    parts: tuple[Quality, ...] = ()

    @property
    def held(self) -> Held | None:
        """The mean over the samples of all parts; None where a part does not say it."""
        found = [(part.state, max(1, len(part.samples))) for part in self.parts if part.state is not None]
        if not found or len(found) < len(self.parts):
            return None
        weights = [n for _, n in found]

        def mean(values: list[float]) -> float:
            return statistics.fmean(values, weights)

        shares = [state.share16 for state, _ in found if state.share16 is not None]
        return Held(
            share=mean(shares) if len(shares) == len(found) else None,
            sealed=mean([state.sealed_payload for state, _ in found]),
            final=mean([state.final_payload for state, _ in found]),
            own=True,
        )


@dataclass(frozen=True)
class Row:
    """One method at one context: its scores, its bytes and its seconds."""

    method: str
    parameters: Mapping[str, Any]
    info: MethodInfo
    setting: Setting
    context: int
    answers: Mapping[Column, Answer]
    #: Tasks that failed and for which no row has a score: name -> status and reason.
    unanswered: Mapping[str, Answer]
    memory: Memory
    time: Time
    records: tuple[str, ...]
    budget: Budget | None = None
    #: Its search for the largest batch.
    largest_batch: Record | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """Words that must stand beside the method wherever it is shown."""
        return self._flags(query_aware=False)

    def flags_in(self, column: Column) -> tuple[str, ...]:
        """Its flags beside a score: a method that looks at queries is query-aware where the question was there."""
        return self._flags(query_aware=self.info.query_sensitive and column.query_aware)

    def _flags(self, *, query_aware: bool) -> tuple[str, ...]:
        holds = {
            "needs training": self.info.needs_training,
            "simulated": self.info.simulated,
            "query-aware": query_aware,
            "not matched": self.budget is not None and self.budget.knob is None,
            "bounded": self.info.bounded,
        }
        return tuple(flag for flag in FLAGS if holds[flag])

    @property
    def external(self) -> bool:
        """What it keeps is text outside the model, which becomes a cache when a question comes."""
        return "external" in self.info.tags

    @property
    def uncached(self) -> bool:
        """Nothing is cached: the prefix runs again for every token."""
        return self.info.family == "baseline" and self.external

    @property
    def dense(self) -> bool:
        """What the others are measured against: dense attention in every layer."""
        return self.parameters.get("name") == "dense" and not self.parameters.get("layers")

    @property
    def competes(self) -> bool:
        """Whether its place on a front of quality against bytes would mean anything."""
        return not (self.info.needs_training or self.info.simulated or self.uncached)

    @property
    def live(self) -> int | None:
        """Bytes that the state held after decoding: payload and slack."""
        return _sum(self.memory.live_payload, self.memory.live_slack)

    @property
    def analytic(self) -> int | None:
        return _sum(self.memory.analytic_payload, self.memory.analytic_slack)

    @property
    def seconds_per_token(self) -> float | None:
        """Median seconds of one decoding step (of the whole batch)."""
        return self.time.decode and self.time.decode.median

    def over_weights(self, peak: int | None) -> int | None:
        """A peak without the model's weights."""
        return None if peak is None or self.memory.weights is None else peak - self.memory.weights

    def score(self, column: Column) -> Score | None:
        """Its score in a column, or None."""
        answer = self.answers.get(column)
        return answer.score if answer else None

    def held(self, column: Column) -> Held:
        """What the state held where its score in a column was made. Of records that do not say it, what it held in
        the memory pass, which is marked as such wherever it is shown."""
        answer = self.answers.get(column)
        sealed, live = self.memory.sealed_payload, self.memory.live_payload
        return (answer and answer.held) or Held(self.memory.share16, sealed, live, own=False)

    def grew(self, column: Column) -> float | None:
        """How many times larger than at seal the state was when the last token had been scored; None where it stays
        bounded, or is not known to have grown."""
        held = self.held(column)
        if self.info.bounded or not held.own or not held.sealed or not held.final:
            return None
        return held.final / held.sealed if held.final > held.sealed else None

    @property
    def status(self) -> Status:
        """The worst of what was tried; "skipped" alone where nothing was."""
        tried: list[Status] = [b.status for b in self._blocks if b.status != "skipped"]
        return min(tried, key=WORST.index) if tried else "skipped"

    @property
    def reason(self) -> str:
        """Why, where the status is not ok."""
        return next((b.reason for b in self._blocks if b.status == self.status and b.reason), "")

    @property
    def _blocks(self) -> list[Answer | Memory | Time]:
        return [*self.answers.values(), *self.unanswered.values(), self.memory, self.time]


@dataclass(frozen=True)
class Board:
    """The rows of one setting, by context and method, and the columns that they have."""

    setting: Setting
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
    records: tuple[Record, ...] = field(default=(), repr=False)

    @property
    def contexts(self) -> list[int]:
        return sorted({row.context for row in self.rows})

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    def at(self, context: int) -> list[Row]:
        return [row for row in self.rows if row.context == context]

    def of(self, method: str) -> list[Row]:
        return [row for row in self.rows if row.method == method]

    @property
    def headlines(self) -> list[Column]:
        """The primary score of each task: the one with most rows first, agreement before others, query-aware last."""

        def place(column: Column) -> tuple[bool, int, bool, str]:
            scored = sum(row.score(column) is not None for row in self.rows)
            return column.query_aware, -scored, column.score != "agreement", column.name

        return sorted((c for c in self.columns if c.primary), key=place)

    @property
    def ordered(self) -> list[Column]:
        """All columns, in the order of the headlines of their tasks."""
        tasks = [c.task_hash for c in self.headlines]
        last = len(tasks)
        place = {h: i for i, h in enumerate(tasks)}
        return sorted(self.columns, key=lambda c: (place.get(c.task_hash, last), self.columns.index(c)))

    def short(self, column: Column) -> str:
        """The score's name, with its task's unless that is named after a score of its own (perplexity)."""
        named = any(c.task_hash == column.task_hash and c.score == c.task for c in self.columns)
        plain = named and column.title == column.task
        return column.score if plain else f"{column.title} {column.score}"


def order(row: Row) -> tuple[Any, ...]:
    """Where a method stands in lists: dense first, then by family and name, 2 before 10."""
    family = row.info.family
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    natural = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.findall(r"\d+|\D+", row.method)]
    return (place, family, row.uncached, natural)


def canonical(value: Any) -> str:
    """JSON with one spelling, to tell settings apart."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None else a + (b or 0)
