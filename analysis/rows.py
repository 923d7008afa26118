"""Records -> rows: everything that is known of one method at one context, on one machine, side by side.

A record holds one cell: one method, one task, one context. A row joins the cells that differ in nothing but the task
and the seed. Rows that may stand in one table share a `Setting`; a `Board` is the table of one setting.

Two rules keep columns honest. Scores stand in one column only under one task hash; where a task was scored in several
ways, each way is a column of its own, named by what differs ("needle (compress_at=prompt)"). Bytes and seconds stand
side by side only where they were measured on one machine, over the same number of tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import polars as pl

from kvfrontier.analysis.stats import bootstrap, units, wilson
from kvfrontier.runners.record import Budget, Memory, MethodInfo, Quality, Record, Score, Status, Time

#: Families in the order of tables and legends; others follow by name.
FAMILIES = (
    "baseline", "selection", "store", "memory", "positions", "retrieval", "patterns", "recurrent", "segments",
    "sharing",
)  # fmt: skip
#: The worst first: what is shown where nothing succeeded.
WORST: tuple[Status, ...] = ("failed", "oom", "infeasible", "skipped", "ok")
STATUS_WORDS = {"oom": "out of memory", "infeasible": "infeasible", "failed": "failed", "skipped": "not measured"}

B = TypeVar("B", Memory, Time)


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
            protocol=_canonical(cell.protocol),
        )

    @property
    def machine(self) -> str:
        """One line for figures: device, threads, precision, torch."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.device_kind == "cpu" else ""
        return f"{self.device}{threads}, {self.dtype}, torch {self.torch}"


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
class Answer:
    """What a row has in a column: a score, or why there is none. `parts` are the blocks it was pooled from."""

    status: Status
    reason: str = ""
    score: Score | None = None
    parts: tuple[Quality, ...] = ()


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

    @property
    def flags(self) -> tuple[str, ...]:
        """Words that must stand beside the method wherever it is shown."""
        flags = []
        if self.info.needs_training:
            flags.append("needs training")
        if self.info.simulated:
            flags.append("simulated")
        if self.info.query_sensitive and any(c.query_aware and a.score for c, a in self.answers.items()):
            flags.append("query-aware")
        if self.budget is not None and self.budget.knob is None:
            flags.append("not matched")
        return tuple(flags)

    @property
    def uncached(self) -> bool:
        """Nothing is cached: the prefix runs again for every token."""
        return self.info.family == "baseline" and "external" in self.info.tags

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
        answer = self.answers.get(column)
        return answer.score if answer else None

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


def boards(records: Iterable[Record]) -> list[Board]:
    """Boards, the one with most rows first. Raises ValueError where there are no records."""
    records = sorted(records, key=lambda r: (r.created, r.id))
    if not records:
        raise ValueError("no records; run `kvfrontier run` first")
    columns = _columns(records)
    by_setting: dict[Setting, list[Record]] = defaultdict(list)
    for record in records:
        by_setting[Setting.of(record)].append(record)
    made = [_board(setting, group, columns) for setting, group in by_setting.items()]
    return sorted(made, key=lambda b: (-len(b.rows), b.setting))


def table(found: Sequence[Board]) -> pl.DataFrame:
    """All rows of all boards as one polars table; bytes and seconds as measured, flags joined by "; ".

    A score makes five columns: value, low, high, n and status.
    """
    columns = list(dict.fromkeys(c for board in found for c in board.columns))
    lines = [_line(row, columns) for board in found for row in board.rows]
    schema = {**_SCHEMA, **{f"{c.name}{end}": kind for c in columns for end, kind in _SCORE_SCHEMA.items()}}
    return pl.DataFrame(lines, schema=schema)


# How a board comes about


def _board(setting: Setting, records: list[Record], columns: dict[tuple[str, str], Column]) -> Board:
    notes = []
    current, old = _newest_code(records)
    if old:
        notes.append(f"{old} record{'s' * (old != 1)} of older code of the same methods left out")
    groups: dict[tuple[int, str], list[Record]] = defaultdict(list)
    for record in current:
        groups[record.cell.context, _canonical(record.cell.asked)].append(record)
    labels = _labels(current)
    memory = {context: _usual_shape(r.memory for r in current if r.cell.context == context) for context, _ in groups}
    time = {context: _usual_shape(r.time for r in current if r.cell.context == context) for context, _ in groups}
    rows = []
    for (context, method), cells in groups.items():
        newest = cells[-1]
        answers, unanswered = _answers(cells, columns)
        rows.append(
            Row(
                method=labels[method],
                parameters=newest.cell.method,
                info=newest.info,
                setting=setting,
                context=context,
                answers=answers,
                unanswered=unanswered,
                memory=_pick([r.memory for r in cells], memory[context]),
                time=_pick([r.time for r in cells], time[context]),
                records=tuple(sorted(r.id for r in cells)),
                budget=newest.cell.budget,
            )
        )
    rows.sort(key=lambda r: (r.context, *order(r)))
    used = {c for row in rows for c in row.answers}
    return Board(setting, tuple(rows), tuple(c for c in columns.values() if c in used), tuple(notes), tuple(current))


def order(row: Row) -> tuple[Any, ...]:
    """Where a method stands in lists: dense first, then by family and name, 2 before 10."""
    family = row.info.family
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    natural = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.findall(r"\d+|\D+", row.method)]
    return (place, family, row.uncached, natural)


def _newest_code(records: list[Record]) -> tuple[list[Record], int]:
    """Records of each method's newest code; results of older code are not mixed with them."""
    newest: dict[str, str] = {}
    for record in records:  # oldest first
        newest[_canonical(record.cell.asked)] = record.method_hash
    kept = [r for r in records if newest[_canonical(r.cell.asked)] == r.method_hash]
    return kept, len(records) - len(kept)


def _labels(records: list[Record]) -> dict[str, str]:
    """A label for each set of parameters; where two share one, what differs is added."""
    by_label: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        by_label[record.info.label][_canonical(record.cell.asked)] = record.cell.asked
    return {
        key: name
        for label, methods in by_label.items()
        for key, name in zip(methods, _tell_apart(label, list(methods.values())), strict=True)
    }


def _tell_apart(name: str, choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name alone where there is one choice; else the name with the parameters that differ."""
    if len(choices) == 1:
        return [name]
    absent = object()
    keys = sorted({k for c in choices for k in c if len({_canonical(o.get(k, str(absent))) for o in choices}) > 1})
    return [f"{name} ({', '.join(f'{k}={c[k]}' for k in keys if k in c)})" if keys else name for c in choices]


def _columns(records: list[Record]) -> dict[tuple[str, str], Column]:
    """Columns by (task hash, score), named so that no two share a name."""
    ways: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.quality.task_hash:
            ways[record.quality.task][record.quality.task_hash].append(record)
    found: dict[tuple[str, str], Column] = {}
    for task in sorted(ways):
        hashes = sorted(ways[task])
        settled = [_constant([r.cell.task for r in ways[task][h]]) for h in hashes]
        titles = _tell_apart(task, settled)
        if len(hashes) == 1 and settled[0].get("compress_at") == "prompt":
            titles = [f"{task} (compress_at=prompt)"]  # never unsaid, also where there is nothing to tell it from
        if len(set(titles)) < len(titles):
            titles = [f"{t} (v{ways[task][h][0].quality.task_version})" for t, h in zip(titles, hashes, strict=True)]
        if len(set(titles)) < len(titles):
            titles = [f"{t} [{h[:6]}]" for t, h in zip(titles, hashes, strict=True)]
        for task_hash, title, settings in zip(hashes, titles, settled, strict=True):
            scores: dict[str, tuple[Score, Quality]] = {}
            for record in ways[task][task_hash]:
                for name, score in record.quality.scores.items():
                    scores.setdefault(name, (score, record.quality))
            for name in sorted(scores, key=lambda s: (s != scores[s][1].primary, list(scores).index(s))):
                score, quality = scores[name]
                found[task_hash, name] = Column(
                    title=title,
                    task=task,
                    task_hash=task_hash,
                    settings=_canonical(settings),
                    score=name,
                    primary=name == quality.primary,
                    higher_is_better=score.higher_is_better,
                    unit=score.unit,
                    query_aware=settings.get("compress_at") == "prompt",
                )
    return found


def _constant(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """What all have in common: the number of samples may differ under one task hash."""
    first = settings[0]
    return {k: v for k, v in first.items() if k != "name" and all(s.get(k) == v for s in settings)}


def _answers(
    cells: list[Record], columns: dict[tuple[str, str], Column]
) -> tuple[dict[Column, Answer], dict[str, Answer]]:
    """What a row has in every column for which it was asked, and the tasks that failed and have no column."""
    blocks: dict[Column, list[Quality]] = defaultdict(list)
    unanswered: dict[str, Answer] = {}
    for record in cells:
        quality = record.quality
        if quality.status == "skipped":
            continue
        homes = [
            column
            for (task_hash, name), column in columns.items()
            if (task_hash == quality.task_hash if quality.task_hash else _asked_for(record, column))
            and (quality.status != "ok" or name in quality.scores)
        ]
        for column in homes:
            blocks[column].append(quality)
        if not homes and quality.status != "ok":
            unanswered[str(record.cell.task.get("name"))] = Answer(quality.status, quality.reason)
    return {column: _answer(column, blocks[column]) for column in columns.values() if blocks[column]}, unanswered


def _answer(column: Column, parts: Sequence[Quality]) -> Answer:
    """The score of the parts that succeeded; where none did, the worst that happened."""
    good = tuple(q for q in parts if q.status == "ok")
    if good:
        return Answer("ok", score=pool(column.score, good), parts=good)
    worst = min(parts, key=lambda q: WORST.index(q.status))
    return Answer(worst.status, worst.reason)


def _asked_for(record: Record, column: Column) -> bool:
    """Whether a record that failed before it knew its task hash belongs in a column."""
    task = record.cell.task
    return task.get("name") == column.task and all(task.get(k) == v for k, v in json.loads(column.settings).items())


def pool(name: str, parts: Sequence[Quality]) -> Score:
    """One score of several seeds or sample sets: the mean over all samples, with an interval over all of them.

    A perplexity is pooled as its logarithm. Without per-sample results the interval is left out.
    """
    scores = [part.scores[name] for part in parts]
    first = scores[0]
    if len(scores) == 1:
        return first
    n = sum(s.n for s in scores)
    geometric = name == "perplexity"
    mean = sum(s.n * (math.log(s.value) if geometric else s.value) for s in scores) / n
    value = math.exp(mean) if geometric else mean
    if all(s.interval == "wilson" for s in scores):
        low, high = wilson(min(max(value, 0.0), 1.0), n)
        return first.model_copy(update={"value": value, "n": n, "low": low, "high": high})
    samples = [x for part in parts for x in units(part, name) or ()]
    if len(samples) != n:
        return first.model_copy(update={"value": value, "n": n, "low": None, "high": None, "interval": "none"})
    low, high = bootstrap(samples, math.exp if geometric else float)
    return first.model_copy(update={"value": value, "n": n, "low": low, "high": high, "interval": "bootstrap"})


def _shape(block: Memory | Time) -> tuple[int, int, int]:
    return (block.prompt_tokens, block.decoded_tokens, block.chunk or 0)


def _usual_shape(blocks: Iterable[Memory | Time]) -> tuple[int, int, int] | None:
    """Over how many tokens most methods of a context were measured; the longer prompt where two are as usual."""
    counts = Counter(_shape(b) for b in blocks if b.status == "ok")
    return max(counts, key=lambda shape: (counts[shape], shape)) if counts else None


def _pick(blocks: Sequence[B], shape: tuple[int, int, int] | None) -> B:
    """The newest block measured in the usual way; else why there is none."""
    good = [b for b in blocks if b.status == "ok"]
    usual = [b for b in good if _shape(b) == shape]
    if usual:
        return max(reversed(usual), key=lambda b: b.repetitions)
    if good:
        prompt, decoded, _ = _shape(good[-1])
        reason = f"measured over {prompt} + {decoded} tokens, unlike the other rows"
        return good[-1].model_copy(update=_blank(good[-1], "skipped", reason))
    return min(reversed(blocks), key=lambda b: WORST.index(b.status) if b.status != "skipped" else len(WORST))


def _blank(block: Memory | Time, status: Status, reason: str) -> dict[str, Any]:
    """What to change in a block so that it holds no number."""
    fields = type(block).model_fields.items()
    return {k: f.default for k, f in fields if k != "status"} | {"status": status, "reason": reason}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None else a + (b or 0)


# The flat table

_SCHEMA: dict[str, Any] = {
    "method": pl.String, "flags": pl.String, "family": pl.String, "tags": pl.String, "parameters": pl.String,
    "model": pl.String, "revision": pl.String, "dtype": pl.String, "device": pl.String, "device_kind": pl.String,
    "threads": pl.Int64, "torch": pl.String, "transformers": pl.String, "protocol": pl.String,
    "context": pl.Int64, "batch": pl.Int64, "status": pl.String, "reason": pl.String,
    "memory_status": pl.String, "time_status": pl.String,
    "nominal_bytes": pl.Int64, "analytic_payload_bytes": pl.Int64, "analytic_slack_bytes": pl.Int64,
    "analytic_bytes": pl.Int64, "live_payload_bytes": pl.Int64, "live_slack_bytes": pl.Int64, "live_bytes": pl.Int64,
    "live_host_bytes": pl.Int64, "sealed_payload_bytes": pl.Int64, "share16": pl.Float64,
    "bytes_read_per_token": pl.Int64, "weights_bytes": pl.Int64, "peak_bytes": pl.Int64,
    "prefill_peak_over_weights_bytes": pl.Int64, "decode_peak_over_weights_bytes": pl.Int64,
    "workspace_bytes": pl.Int64, "largest_fitting_context": pl.Int64,
    "prompt_tokens": pl.Int64, "decoded_tokens": pl.Int64, "chunk": pl.Int64, "repetitions": pl.Int64,
    "prefill_seconds": pl.Float64, "prefill_q1_seconds": pl.Float64, "prefill_q3_seconds": pl.Float64,
    "prefill_tokens_per_second": pl.Float64,
    "decode_seconds_per_token": pl.Float64, "decode_q1_seconds_per_token": pl.Float64,
    "decode_q3_seconds_per_token": pl.Float64, "decode_tokens_per_second": pl.Float64, "mbu": pl.Float64,
    "copy_bandwidth_bytes_per_second": pl.Float64, "records": pl.String,
}  # fmt: skip
_SCORE_SCHEMA: dict[str, Any] = {
    "": pl.Float64, ".low": pl.Float64, ".high": pl.Float64, ".n": pl.Int64, ".status": pl.String
}  # fmt: skip


def _line(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    setting, memory, time = row.setting, row.memory, row.time
    line: dict[str, Any] = {
        "method": row.method,
        "flags": "; ".join(row.flags),
        "family": row.info.family,
        "tags": "; ".join(row.info.tags),
        "parameters": _canonical(row.parameters),
        "model": setting.model,
        "revision": setting.revision,
        "dtype": setting.dtype,
        "device": setting.device,
        "device_kind": setting.device_kind,
        "threads": setting.threads,
        "torch": setting.torch,
        "transformers": setting.transformers,
        "protocol": setting.protocol,
        "context": row.context,
        "batch": setting.batch,
        "status": row.status,
        "reason": row.reason,
        "memory_status": memory.status,
        "time_status": time.status,
        "nominal_bytes": memory.nominal,
        "analytic_payload_bytes": memory.analytic_payload,
        "analytic_slack_bytes": memory.analytic_slack,
        "analytic_bytes": row.analytic,
        "live_payload_bytes": memory.live_payload,
        "live_slack_bytes": memory.live_slack,
        "live_bytes": row.live,
        "live_host_bytes": memory.live_host,
        "sealed_payload_bytes": memory.sealed_payload,
        "share16": memory.share16,
        "bytes_read_per_token": memory.bytes_read,
        "weights_bytes": memory.weights,
        "peak_bytes": memory.peak,
        "prefill_peak_over_weights_bytes": row.over_weights(memory.prefill_peak),
        "decode_peak_over_weights_bytes": row.over_weights(memory.decode_peak),
        "workspace_bytes": memory.workspace,
        "largest_fitting_context": memory.largest_fitting_context,
        "prompt_tokens": time.prompt_tokens or memory.prompt_tokens,
        "decoded_tokens": time.decoded_tokens or memory.decoded_tokens,
        "chunk": time.chunk or memory.chunk,
        "repetitions": time.repetitions,
        "prefill_seconds": time.prefill and time.prefill.median,
        "prefill_q1_seconds": time.prefill and time.prefill.q1,
        "prefill_q3_seconds": time.prefill and time.prefill.q3,
        "prefill_tokens_per_second": time.prefill_tokens_per_second,
        "decode_seconds_per_token": row.seconds_per_token,
        "decode_q1_seconds_per_token": time.decode and time.decode.q1,
        "decode_q3_seconds_per_token": time.decode and time.decode.q3,
        "decode_tokens_per_second": time.decode_tokens_per_second,
        "mbu": time.mbu,
        "copy_bandwidth_bytes_per_second": time.copy_bandwidth,
        "records": "; ".join(row.records),
    }
    for column in columns:
        answer = row.answers.get(column)
        score = answer.score if answer else None
        values = (score.value, score.low, score.high, score.n) if score else (None, None, None, None)
        status = answer.status if answer else "skipped"
        line |= {f"{column.name}{end}": v for end, v in zip(_SCORE_SCHEMA, (*values, status), strict=True)}
    return line
