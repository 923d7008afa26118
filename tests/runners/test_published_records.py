"""Every published record is walked: the bytes that it says a closed form predicted are what the closed form of the
method of that name predicts now, and what the record says the state held.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import budget, compose, models
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.record import Record, canonical_json, iter_records
from kvfrontier.runners.train import build as train

RESULTS = Path(__file__).parents[2] / "results"
RECORDS = [record for record in iter_records(RESULTS) if record.memory.status == "ok"]


def layers(model: Mapping[str, Any], dtype: str) -> list[Any]:
    """Attention layers of a record's model. One that was run before configurations had an architecture is known by its
    name."""
    compose.register()
    if model["kind"] == "compact":
        return [layer.at(models.resolve_dtype(dtype)) for layer in train.layers(model)]
    known = model if model.get("architecture") or model["kind"] == "tiny" else compose.choice("model", model["name"])
    return [layer.at(models.resolve_dtype(dtype)) for layer in _layers(canonical_json(dict(known)))]


@cache
def _layers(model: str) -> tuple[Any, ...]:
    return models.layers(json.loads(model))


def kept(model: Mapping[str, Any], dtype: str) -> int:
    """Bytes that a model's convolutions keep of a text, whatever the method."""
    if model["kind"] != "compact":
        return 0
    return len(model["convolutions"]) * (model["kernel"] - 1) * model["width"] * models.resolve_dtype(dtype).itemsize


def disagreements(record: Record) -> list[str]:
    """What the record says otherwise than the closed form; a cell that cannot be rebuilt is one."""
    cell, memory = record.cell, record.memory
    try:
        method = registry.build(cell.method)
        of_model = layers(record.config["model"], cell.dtype)
        at_end = footprint(method, of_model, cell.batch, memory.prompt_tokens, memory.decoded_tokens)
        sealed = footprint(method, of_model, cell.batch, memory.prompt_tokens)
        at16 = [layer.at(budget.SIXTEEN_BITS) for layer in of_model]
        share16 = footprint(method, at16, cell.batch, memory.prompt_tokens).held.payload
        dense16 = budget.dense_payload(of_model, cell.batch, memory.prompt_tokens)
        own = kept(record.config["model"], cell.dtype)
    except ValueError as error:
        return [f"cannot be rebuilt: {error}"]
    compared = {
        "analytic_payload": at_end.held.payload + own * cell.batch,
        "analytic_slack": at_end.held.slack,
        "live_payload": at_end.held.payload + own * cell.batch,
        "live_slack": at_end.held.slack,
        "live_host": at_end.held.host + at_end.held.host_slack,
        "sealed_payload": sealed.held.payload + own * cell.batch,
        "bytes_read": at_end.read + own,
        "dense16": dense16 + own * cell.batch,
        "share16": (share16 + own * cell.batch) / (dense16 + own * cell.batch),
    }
    return [
        f"{key} is {getattr(memory, key)}, and the closed form says {value}"
        for key, value in compared.items()
        if getattr(memory, key) is not None and getattr(memory, key) != value
    ]


def test_there_are_records_to_walk() -> None:
    assert len(RECORDS) >= 50


def test_no_published_record_disagrees_with_the_closed_forms() -> None:
    wrong = {
        f"{r.cell.model} {r.info.label} {r.cell.task.get('name')} {r.cell.context} ({r.id[:8]})": found
        for r in RECORDS
        if (found := disagreements(r))
    }
    assert not wrong, "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())


@pytest.mark.parametrize("key", ["analytic_payload", "live_slack", "sealed_payload", "bytes_read"])
def test_one_wrong_byte_in_a_record_is_found(key: str) -> None:
    record = RECORDS[0]
    memory = record.memory.model_copy(update={key: getattr(record.memory, key) + 1})
    (found,) = disagreements(record.model_copy(update={"memory": memory}))
    assert found.startswith(key)


def test_a_method_that_is_no_more_is_no_excuse() -> None:
    record = RECORDS[0]
    cell = record.cell.model_copy(update={"method": {"name": "no_such_method"}})
    (found,) = disagreements(record.model_copy(update={"cell": cell}))
    assert "cannot be rebuilt" in found
