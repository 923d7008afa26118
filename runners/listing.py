"""What there is to choose from: `kvfrontier list`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.plan import hardware
from kvfrontier.runners.tables import show_table


@dataclass(frozen=True)
class Kind:
    """One thing to list. `rows` gives each its line, and `details` all that is known of one; rows with the same value
    of `grouped_by` stand in one table."""

    names: Callable[[], list[str]]
    columns: tuple[str, ...]
    rows: Callable[[], dict[str, Mapping[str, Any]]]
    details: Callable[[str], Mapping[str, Any]]
    grouped_by: str | None = None


def show(kind: str | None, name: str | None, as_json: bool) -> None:
    """Print everything, one kind, or one thing of a kind. Raises UsageError for what does not exist."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    if kind is None:
        listed = {k: KINDS[k].rows() for k in KINDS}
        if as_json:
            print(json.dumps({k: [{"name": n, **row} for n, row in rows.items()] for k, rows in listed.items()}))
            return
        for k, rows in listed.items():
            _show_rows(k, rows)
        print("All of one: kvfrontier list methods kivi")
        return
    if name is None:
        rows = KINDS[kind].rows()
        if as_json:
            print(json.dumps([{"name": n, **row} for n, row in rows.items()]))
        else:
            _show_rows(kind, rows)
        return
    if name not in KINDS[kind].names():
        raise unknown(kind.removesuffix("s"), name, KINDS[kind].names())
    details = {"name": name, **KINDS[kind].details(name)}
    if as_json:
        print(json.dumps(details))
    else:
        show_table(None, ("", ""), [(key, _text(value)) for key, value in details.items() if value not in (None, "")])


def _show_rows(kind: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns, by = KINDS[kind].columns, KINDS[kind].grouped_by
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, row in rows.items():
        line = (name, *(_text(row[c]) for c in columns))
        groups.setdefault(f"{kind}: {row[by]}" if by else kind, []).append(line)
    for title, lines in groups.items():
        show_table(title, ("name", *columns), lines)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{k}={_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return (
        {True: "yes", False: "no", None: "null"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


FLAGS = (
    "needs_training", "bounded", "query_sensitive", "chunk_invariant", "decode_equals_prefill", "differentiable",
    "simulated", "shareable", "adopts", "knob",
)  # fmt: skip


def _methods() -> dict[str, Mapping[str, Any]]:
    """The choices of configuration: those with a YAML, and registered methods that have none; by family."""
    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    rows = {}
    for choice in _names("method"):
        parameters = compose.choice("method", choice)
        entry, usual = registry.get(parameters["name"]), registry.complete({"name": parameters["name"]})
        changed = [f"{k}={_text(v)}" for k, v in registry.complete(parameters).items() if usual.get(k) != v]
        built = registry.build(parameters)
        rows[choice] = {
            "family": entry.family,
            "summary": entry.summary.rstrip(".") + (f" ({', '.join(changed)})" if changed else ""),
            "flags": [flag.replace("_", " ") for flag in FLAGS_SHOWN if getattr(built, flag)],
            "tags": entry.tags,
            "paper": entry.paper,
            "cost": entry.cost,
        }
    return dict(sorted(rows.items(), key=lambda row: registry.FAMILIES.index(row[1]["family"])))


#: Of these a reader must know before any number.
FLAGS_SHOWN = ("needs_training", "simulated", "bounded", "query_sensitive")


def _axes() -> dict[str, Mapping[str, Any]]:
    """The choices of the axes that `method=cached` composes, each as `axis/name`."""
    return {
        name: {"axis": name.partition("/")[0], "summary": _axis(name)["description"].split("\n")[0],
               "parameters": [f"{k}={_text(v)}" for k, v in _axis(name)["parameters"].items()]}
        for name in _axis_names()
    }  # fmt: skip


def _axis_names() -> list[str]:
    from kvfrontier.methods import registry

    return [f"{axis}/{name}" for axis in registry.AXES for name in _names(f"method/{axis}")]


def _axis(choice: str) -> Mapping[str, Any]:
    from inspect import getdoc

    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    axis, _, name = choice.partition("/")
    parameters = dict(compose.component(axis, name))
    registered = parameters.pop("name")
    return {
        "axis": axis,
        "registered as": registered,
        "description": getdoc(registry.components(axis)[registered]) or "",
        "parameters": parameters,
        "chosen by": f"method=cached method/{axis}={name}",
    }


def _method(choice: str) -> Mapping[str, Any]:
    from inspect import getdoc

    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    parameters = registry.complete(compose.choice("method", choice))
    entry = registry.get(parameters["name"])
    built = registry.build(parameters)
    del parameters["name"]
    return {
        "registered as": entry.name,
        "family": entry.family,
        "description": getdoc(entry.factory) or "",
        "parameters": parameters,
        "paper": entry.paper,
        "cost": entry.cost,
        "tags": entry.tags,
        "flags": {flag: getattr(built, flag) for flag in FLAGS},
    }


def _models() -> dict[str, Mapping[str, Any]]:
    from kvfrontier.runners import compose

    return {
        choice: {"kind": compose.choice("model", choice)["kind"], "summary": compose.comment("model", choice)}
        for choice in _names("model")
    }


def _model(choice: str) -> Mapping[str, Any]:
    from kvfrontier.runners import compose

    parameters = dict(compose.choice("model", choice))
    del parameters["name"]
    return {"summary": compose.comment("model", choice), "parameters": parameters}


def _tasks() -> dict[str, Mapping[str, Any]]:
    from kvfrontier.runners import compose, tasks

    return {choice: tasks.describe(compose.choice("task", choice)["name"]) for choice in _names("task")}


def _task(choice: str) -> Mapping[str, Any]:
    from kvfrontier.runners import compose, tasks

    parameters = dict(compose.choice("task", choice))
    return {**tasks.describe(parameters.pop("name")), "parameters": parameters}


def _workloads() -> dict[str, Mapping[str, Any]]:
    from kvfrontier.runners import compose, workloads

    rows = {}
    for name in workloads.names():
        found = workloads.load(name)
        sizes = {"requests": found.count, "longest": found.longest, "tokens": found.tokens, "shared": found.shared}
        rows[name] = {"summary": compose.comment("workload", name), **sizes, "padding": found.padding}
    return rows


def _workload(name: str) -> Mapping[str, Any]:
    from kvfrontier.runners import workloads

    return {**_workloads()[name], "of": [r.model_dump() for r in workloads.load(name).requests]}


def _devices() -> dict[str, Mapping[str, Any]]:
    """What torch finds here, and what can be planned for."""
    from kvfrontier.runners import environment

    here: dict[str, Mapping[str, Any]] = {}
    for device in environment.DEVICES:
        try:
            here[device] = {"available": True, "device": environment.device_name(environment.resolve_device(device))}
        except UsageError as error:
            here[device] = {"available": False, "device": str(error).partition(";")[0]}
    return here | {name: _planned(name) for name in hardware.names()}


def _planned(name: str) -> Mapping[str, Any]:
    """A device that `kvfrontier plan` knows."""
    sheet = asdict(hardware.hardware(name))
    del sheet["name"]
    return {"available": "to plan for", "device": sheet.pop("summary"), **sheet}


def _names(group: str) -> list[str]:
    from kvfrontier.runners import compose

    compose.register()
    return compose.names(group)


KINDS: dict[str, Kind] = {
    "methods": Kind(lambda: _names("method"), ("summary", "flags", "tags", "paper"), _methods, _method, "family"),
    "axes": Kind(_axis_names, ("summary", "parameters"), _axes, _axis, "axis"),
    "models": Kind(lambda: _names("model"), ("kind", "summary"), _models, _model),
    "tasks": Kind(lambda: _names("task"), ("primary", "summary"), _tasks, _task),
    "workloads": Kind(lambda: _names("workload"), ("requests", "longest", "tokens", "summary"), _workloads, _workload),
    "devices": Kind(lambda: list(_devices()), ("available", "device"), _devices, lambda name: _devices()[name]),
}
