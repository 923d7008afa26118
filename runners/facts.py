"""What the report's page says beside records: what each method is, and what a planner predicts of it elsewhere.

analysis reads records alone and never loads torch; `kvfrontier report` hands this over as plain data. Methods are known
by the canonical JSON of their parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from inspect import getdoc
from typing import Any

from kvfrontier.methods import Layer, Method, registry
from kvfrontier.runners import budget, compose, models
from kvfrontier.runners.errors import unknown
from kvfrontier.runners.listing import FLAGS
from kvfrontier.runners.plan import hardware, roofline
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.record import Record, canonical_json

#: Contexts that the page can be asked about, beside those of the records.
CONTEXTS = tuple(1 << k for k in range(10, 18))


def gather(records: Iterable[Record], planned: Sequence[str]) -> dict[str, Any]:
    """Facts about the methods of `records`, and predictions for their models and for those named in `planned`
    (kvfrontier list models). Raises UsageError for a model that does not exist."""
    compose.register()
    records = list(records)
    methods = {canonical_json(r.cell.method): r.cell for r in records}
    built = {key: found for key, cell in methods.items() if (found := _built(cell.method)) is not None}
    told = {key: _told(methods[key].method, method) for key, method in built.items()}
    # What a budget solved at one context is no setting for another.
    free = {key: method for key, method in built.items() if methods[key].budget is None}
    return {"methods": told, "planner": _planner(_models(records, planned), free, records)}


def _built(parameters: Mapping[str, Any]) -> Method | None:
    """None of a method that is no more, or no longer takes what the record says: its records are still shown."""
    try:
        return registry.build(dict(parameters))
    except ValueError:
        return None


def _told(parameters: Mapping[str, Any], built: Method) -> dict[str, Any]:
    entry = registry.get(parameters["name"])
    return {
        "description": getdoc(entry.factory) or "",
        "cost": entry.cost,
        "source": entry.factory.__module__.removeprefix("kvfrontier.").replace(".", "/") + ".py",
        "properties": [flag.replace("_", " ") for flag in FLAGS if getattr(built, flag) is True],
    }


def _models(records: Sequence[Record], planned: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Model keys by name: of the records as they ran, of others as they are configured."""
    known = compose.names("model")
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        model = record.config.get("model", {})
        if record.cell.model in known and (model.get("architecture") or model.get("kind") == "tiny"):
            found[record.cell.model] = dict(model)
    for name in planned:
        if name not in known:
            raise unknown("model to plan for", name, known)
        found.setdefault(name, compose.choice("model", name))
    return found


def _planner(found: Mapping[str, dict[str, Any]], methods: Mapping[str, Method], records: Sequence[Record]) -> Any:
    contexts = sorted({*CONTEXTS, *(r.cell.context for r in records if r.cell.context > 1 and not r.cell.workload)})
    at16 = {name: {**model, "dtype": "bfloat16"} for name, model in found.items()}
    layers = {name: [layer.at(budget.SIXTEEN_BITS) for layer in models.layers(model)] for name, model in at16.items()}
    return {
        "contexts": contexts,
        "devices": [
            {key: value for key, value in asdict(sheet).items() if key in ("name", "summary", "is_host")}
            | {"memory": sheet.memory, "bandwidth": sheet.bandwidth}
            for sheet in map(hardware.hardware, hardware.names())
        ],
        "models": {name: {"weights": roofline.anatomy(model).weights} for name, model in at16.items()},
        "sizes": {
            name: {key: _sizes(method, of_model, contexts) for key, method in methods.items()}
            for name, of_model in layers.items()
        },
    }


def _sizes(method: Method, layers: Sequence[Layer], contexts: Sequence[int]) -> list[list[int]] | None:
    """Of one sequence at each context, by the closed form at 16 bits: bytes held, those on the device, and bytes that a
    decoded token reads. None where the method cannot serve the model."""
    try:
        for layer in layers:
            method.validate(layer)
        ends = [footprint(method, layers, 1, context - 1, 1) for context in contexts]
    except ValueError:
        return None
    return [[end.held.live, end.held.device + end.held.device_slack, end.read] for end in ends]
