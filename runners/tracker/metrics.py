"""What trackers show of a record, by names that stay from version to version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kvfrontier.runners.record import Record

Value = int | float | str


def metrics(record: Record) -> dict[str, Value]:
    """What is shown of a record: context, batch, seed, `memory/peak`, `time/prefill/median`, `quality/needle/accuracy`,
    its interval as `.../low` and `.../high`. What was not measured is left out."""
    shown: dict[str, Value] = {
        "context": record.cell.context,
        "batch": record.cell.batch,
        "seed": record.cell.seed,
        "record": record.id,
        "status": record.status,
    }
    memory, time = record.memory, record.time
    shown |= _numbers("memory", memory.model_dump())
    if memory.live_payload is not None and memory.live_slack is not None:
        shown["memory/live"] = memory.live_payload + memory.live_slack
    if memory.analytic_payload is not None and memory.analytic_slack is not None:
        shown["memory/analytic"] = memory.analytic_payload + memory.analytic_slack
    if memory.peak is not None and memory.weights is not None:
        shown["memory/peak_less_weights"] = memory.peak - memory.weights
    shown |= _numbers("time", time.model_dump())
    if record.search is not None:
        sizes = {"found": record.search.found, "predicted": record.search.predicted}
        shown |= _numbers(f"search/{record.search.kind}", sizes)
        shown["context"] = record.cell.context or record.search.found or 0
    task = task_name(record)
    for name, score in record.quality.scores.items():
        shown |= _numbers(f"quality/{task}/{name}", {"low": score.low, "high": score.high})
        shown[f"quality/{task}/{name}"] = score.value
    for block, status in (("quality", record.quality.status), ("memory", memory.status), ("time", time.status)):
        shown[f"{block}/status"] = status
    return shown


def numbers(record: Record) -> dict[str, int | float]:
    """The metrics that make curves: without words, and without the context, which is their x-axis."""
    return {k: v for k, v in metrics(record).items() if not isinstance(v, str) and k != "context"}


def task_name(record: Record) -> str:
    """Scores of a prompt that was compressed with its question are another curve."""
    task = record.cell.task
    compress_at = task.get("compress_at", "context")
    return task["name"] if compress_at == "context" else f"{task['name']}_{compress_at}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration by dotted keys, as the command line names it: `method.bits`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found


def facts(record: Record) -> dict[str, Any]:
    """What all records of a job share and its configuration does not say: what the method is, and where it ran."""
    info = record.info.model_dump(exclude={"tags"})
    return flat(
        {
            "method_label": info.pop("label"),
            "method_info": info,
            "protocol": record.cell.protocol,
            "environment": record.environment.model_dump(),
            "model_info": record.model_info,
        }
    )


def samples(record: Record) -> list[dict[str, Any]]:
    """A record's samples as rows of a table: where they are from, and what was asked and answered. What is no word or
    number is written as JSON."""
    place = {"context": record.cell.context, "seed": record.cell.seed, "record": record.id}
    return [
        {**place, "sample": i, **{key: _plain(value) for key, value in sample.items()}}
        for i, sample in enumerate(record.quality.samples)
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, type(None))) else json.dumps(value, ensure_ascii=False)


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, Value]:
    """The numbers among nested values, by their path."""
    found: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}/{key}"] = value
    return found
