"""What a page says of each method beside its numbers: what it is, what repeats it, and answers that it got wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvfrontier.analysis.report.repeat import commands_of, method_words
from kvfrontier.analysis.rows import Board, Row
from kvfrontier.runners.record import canonical_json

#: Answers that are shown of a method, of each task at each context, and how much of each.
_ANSWERS, _CHARACTERS = 3, 400


def described(boards: Sequence[Board], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the label that boards show. `facts`: what is known beside records, by the canonical JSON of the parameters."""
    found: dict[str, dict[str, Any]] = {}
    for board in boards:
        commands = commands_of(board)
        for method in board.methods:
            rows = board.of(method)
            info = rows[0].info
            known = facts.get(canonical_json(rows[0].parameters), {})
            one = found.setdefault(
                method,
                {
                    "family": info.family,
                    "flags": rows[0].flags,
                    "tags": info.tags,
                    "paper": info.paper,
                    "parameters": {k: v for k, v in rows[0].parameters.items() if k != "name"},
                    **{key: known[key] for key in ("description", "cost", "source", "properties") if key in known},
                    "words": method_words(rows[0].parameters),
                    "boards": [],
                },
            )  # fmt: skip
            one["boards"].append(
                {"model": board.setting.model, "machine": board.setting.machine, "commands": commands[method],
                 "wrong": [answer for row in rows for answer in _wrong(row)]}
            )  # fmt: skip
    return found


def _wrong(row: Row) -> Iterator[dict[str, Any]]:
    """Samples with an answer that was not right, the first few of each task."""
    for column, answer in row.answers.items():
        if not column.primary:
            continue
        samples = [sample for part in answer.parts for sample in part.samples if _is_wrong(sample)]
        for sample in samples[:_ANSWERS]:
            yield {
                "task": column.title,
                "context": row.context,
                "depth": sample.get("depth"),
                "asked": _words(sample.get("keys", sample.get("question"))),
                "right": _words(sample.get("targets", sample.get("references"))),
                "said": _words(_said(sample)),
                "of": [len(samples), sum(len(part.samples) for part in answer.parts)],
            }


def _said(sample: Mapping[str, Any]) -> Any:
    """What a method answered, of several turns all; None where the sample is no question."""
    return sample.get("generation", sample.get("generations"))


def _is_wrong(sample: Mapping[str, Any]) -> bool:
    if _said(sample) is None:
        return False
    right = sample.get("correct", float(sample.get("recall", 1)) >= 1)
    return not (all(right) if isinstance(right, (list, tuple)) else right)


def _words(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"


def by_label(boards: Sequence[Board], planner: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A planner's sizes by the labels that boards show; what a budget solved at one context is none for another."""
    if planner is None:
        return None
    keys = {row.method: canonical_json(row.parameters) for board in boards for row in board.rows if row.budget is None}
    sizes = {
        model: {label: found[key] for label, key in keys.items() if found.get(key)}
        for model, found in planner["sizes"].items()
    }
    return {**planner, "sizes": sizes}
