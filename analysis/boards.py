"""Records -> boards: which records make a row, which scores make a column, and what is not put side by side."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kvfrontier.analysis.rows import WORST, Answer, Board, Column, Row, Setting, canonical, order
from kvfrontier.analysis.stats import DIFFERENCE_OF, bootstrap, newcombe, units, wilson
from kvfrontier.runners.record import BadRecords, Memory, Quality, Record, Score, Status, Time

B = TypeVar("B", Memory, Time)


def boards(records: Iterable[Record]) -> list[Board]:
    """Boards, the one with most rows first. Raises ValueError where there are no records, and BadRecords where none of
    them may stand in a table; where they are all searches for the context or workloads, there is no board."""
    given = sorted(records, key=lambda r: (r.created, r.id))
    if not given:
        raise ValueError("no records; run `kvfrontier run` first")
    records = [r for r in given if not r.moved]
    if not records:
        raise BadRecords(f"all {len(given)} records hold {_MOVED}; run them again")
    moved = len(given) - len(records)
    notes = [f"{moved} record{'s' * (moved != 1)} with {_MOVED} left out"] if moved else []
    # A model that was trained for its method stands beside others of its training (analysis/trained.py).
    records = [r for r in records if not r.cell.training]
    # A search for the context has none of its own (analysis/wall.py), nor has a workload (analysis/scenarios.py).
    records = [r for r in records if not (r.cell.search and r.cell.search.get("name") == "max_context")]
    records = [r for r in records if not r.cell.workload]
    columns = _columns(records)
    by_setting: dict[Setting, list[Record]] = defaultdict(list)
    for record in records:
        by_setting[Setting.of(record)].append(record)
    made = [_board(setting, group, columns, notes) for setting, group in by_setting.items()]
    return sorted(made, key=lambda b: (-len(b.rows), b.setting))


_MOVED = "scores of another version of the task than the answers"


def _board(
    setting: Setting, records: list[Record], columns: dict[tuple[str, str], Column], notes: Sequence[str]
) -> Board:
    notes = [*notes]
    current, old = _newest_code(records)
    if old:
        notes.append(f"{old} record{'s' * (old != 1)} of older code of the same methods left out")
    groups: dict[tuple[int, str], list[Record]] = defaultdict(list)
    for record in current:
        groups[record.cell.context, canonical(record.cell.asked)].append(record)
    names = labels(current)
    measured = [r for r in current if not r.cell.search]
    memory = {context: _usual_shape(r.memory for r in measured if r.cell.context == context) for context, _ in groups}
    time = {context: _usual_shape(r.time for r in measured if r.cell.context == context) for context, _ in groups}
    rows = []
    for (context, method), cells in groups.items():
        newest = cells[-1]
        answers, unanswered = _answers(cells, columns)
        plain = [r for r in cells if not r.cell.search]
        searches = [r for r in cells if r.cell.search]
        rows.append(
            Row(
                method=names[method],
                parameters=newest.cell.method,
                info=newest.info,
                setting=setting,
                context=context,
                answers=answers,
                unanswered=unanswered,
                memory=_pick([r.memory for r in plain] or [Memory(status="skipped")], memory[context]),
                time=_pick([r.time for r in plain] or [Time(status="skipped")], time[context]),
                records=tuple(sorted(r.id for r in cells)),
                budget=newest.cell.budget,
                largest_batch=searches[-1] if searches else None,
            )
        )
    rows.sort(key=lambda r: (r.context, *order(r)))
    used = {c for row in rows for c in row.answers}
    return Board(setting, tuple(rows), tuple(c for c in columns.values() if c in used), tuple(notes), tuple(current))


def _newest_code(records: list[Record]) -> tuple[list[Record], int]:
    """Records of each method's newest code; results of older code are not mixed with them."""
    newest: dict[str, str] = {}
    for record in records:  # oldest first
        newest[canonical(record.cell.asked)] = record.method_hash
    kept = [r for r in records if newest[canonical(r.cell.asked)] == r.method_hash]
    return kept, len(records) - len(kept)


def labels(records: list[Record]) -> dict[str, str]:
    """A label for each set of parameters; where two share one, what differs is added."""
    by_label: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        by_label[record.info.label][canonical(record.cell.asked)] = record.cell.asked
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
    keys = sorted({k for c in choices for k in c if len({canonical(o.get(k, str(absent))) for o in choices}) > 1})
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
                    settings=canonical(settings),
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
    if name in DIFFERENCE_OF and all(s.interval == "newcombe" for s in scores):
        pair = [[x for part in parts for x in units(part, side) or ()] for side in DIFFERENCE_OF[name]]
        if all(len(side) == n for side in pair):
            low, high = newcombe(*pair)
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
