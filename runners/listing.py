"""What there is to choose from: `kvfrontier list`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.plan import hardware
from kvfrontier.runners.tables import show_table


@dataclass(frozen=True)
class Kind:
    """One thing to list. `rows` gives each its line, and `details` all that is known of one; rows with the same value
    of `grouped_by` stand in one table. `one`: what a single one is called, where that is not plain."""

    names: Callable[[], list[str]]
    columns: tuple[str, ...]
    rows: Callable[[], dict[str, Mapping[str, Any]]]
    details: Callable[[str], Mapping[str, Any]]
    grouped_by: str | None = None
    one: str = ""


def show(kind: str | None, name: str | None, as_json: bool) -> None:
    """Print everything, one kind, or one thing of a kind. Raises UsageError for what does not exist."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind to list", kind, KINDS)
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
        _print(kind, KINDS[kind].rows(), as_json)
        return
    if name not in KINDS[kind].names():
        group = KINDS[kind].grouped_by
        within = {n: row for n, row in KINDS[kind].rows().items() if row[group] == name} if group else {}
        if not within:
            raise unknown(KINDS[kind].one or kind.removesuffix("s"), name, KINDS[kind].names())
        _print(kind, within, as_json)
        return
    details = {"name": name, **KINDS[kind].details(name)}
    if as_json:
        print(json.dumps(details))
    else:
        show_table(None, ("", ""), [(key, _text(value)) for key, value in details.items() if value not in (None, "")])


def _print(kind: str, rows: Mapping[str, Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": n, **row} for n, row in rows.items()]))
    else:
        _show_rows(kind, rows)


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
    for choice, parameters in compose.choices("method").items():
        entry, built = registry.get(parameters["name"]), registry.build(parameters)
        rows[choice] = {
            "family": entry.family,
            "summary": _summary("method", choice, entry.factory),
            "flags": [flag.replace("_", " ") for flag in FLAGS_SHOWN if getattr(built, flag)],
            "tags": entry.tags,
            "paper": entry.paper,
            "cost": entry.cost,
        }
    return dict(sorted(rows.items(), key=lambda row: registry.FAMILIES.index(row[1]["family"])))


def _summary(group: str, choice: str, factory: Any) -> str:
    """What the choice's YAML says first, or the docstring of what it is registered as; in as many whole sentences as a
    line holds."""
    from inspect import getdoc

    from kvfrontier.runners import compose

    text = compose.comment(group, choice) or " ".join((getdoc(factory) or "").split("\n\n")[0].split())
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z`])", text)
    while len(sentences) > 1 and len(" ".join(sentences)) > _LINE:
        sentences.pop()
    return " ".join(sentences)


#: Characters of a line in a table.
_LINE = 130


#: Of these a reader must know before any number.
FLAGS_SHOWN = ("needs_training", "simulated", "bounded", "query_sensitive")


def _axes() -> dict[str, Mapping[str, Any]]:
    """The choices of the axes that `method=cached` composes, each as `axis/name`."""
    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    rows = {}
    for axis in registry.AXES:
        for name, given in compose.choices(f"method/{axis}").items():
            factory = registry.components(axis)[given["name"]]
            parameters = {**registry.defaults(factory), **given}
            del parameters["name"]
            shown = [f"{key}={_text(value)}" for key, value in parameters.items()]
            rows[f"{axis}/{name}"] = {
                "axis": axis, "summary": _summary(f"method/{axis}", name, factory), "parameters": shown,
            }  # fmt: skip
    return rows


def _axis_names() -> list[str]:
    from kvfrontier.methods import registry

    return [f"{axis}/{name}" for axis in registry.AXES for name in _names(f"method/{axis}")]


def _axis(choice: str) -> Mapping[str, Any]:
    from inspect import getdoc

    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    axis, _, name = choice.partition("/")
    parameters = dict(compose.choices(f"method/{axis}", name)[name])
    registered = parameters.pop("name")
    return {
        "axis": axis,
        "registered as": registered,
        "summary": _summary(f"method/{axis}", name, registry.components(axis)[registered]),
        "description": getdoc(registry.components(axis)[registered]) or "",
        "parameters": parameters,
        "chosen by": f"method=cached method/{axis}={name}",
    }


def _method(choice: str) -> Mapping[str, Any]:
    from inspect import getdoc

    from kvfrontier.methods import registry
    from kvfrontier.runners import compose

    parameters = registry.complete(compose.choices("method", choice)[choice])
    entry = registry.get(parameters["name"])
    built = registry.build(parameters)
    del parameters["name"]
    return {
        "registered as": entry.name,
        "family": entry.family,
        "summary": _summary("method", choice, entry.factory),
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
        choice: {"kind": parameters["kind"], "summary": compose.comment("model", choice)}
        for choice, parameters in compose.choices("model").items()
    }


def _model(choice: str) -> Mapping[str, Any]:
    from kvfrontier.runners import compose

    parameters = dict(compose.choices("model", choice)[choice])
    del parameters["name"]
    return {"summary": compose.comment("model", choice), "parameters": parameters}


def _tasks() -> dict[str, Mapping[str, Any]]:
    from kvfrontier.runners import compose

    return {choice: _task_of(choice, parameters) for choice, parameters in compose.choices("task").items()}


def _task(choice: str) -> Mapping[str, Any]:
    from kvfrontier.runners import compose

    return _task_of(choice, compose.choices("task", choice)[choice])


def _task_of(choice: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the task says of itself at the parameters of the choice."""
    from kvfrontier.runners import compose, tasks

    made = tasks.make(given)
    parameters = {key: value for key, value in made.parameters().items() if key != "name"}
    told = tasks.describe(given["name"])
    return {**told, "summary": compose.comment("task", choice) or told["summary"], "parameters": parameters,
            "hash": made.hash()}  # fmt: skip


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


def _backends() -> dict[str, Mapping[str, Any]]:
    """Functions that compute softmax attention: `method.backend=NAME`, of methods that have this parameter; and
    kernels, which a method's `kernel` asks for. Whether each runs on the best device here, and why not."""
    from importlib import import_module

    from kvfrontier.methods import attend, kernels
    from kvfrontier.runners.environment import resolve_device

    device = resolve_device("auto")
    rows: dict[str, Mapping[str, Any]] = {"auto": {"kind": "dense", "available": True, "why not": "", "summary": _AUTO}}
    for name in attend.BACKENDS:
        summary = (import_module(f"{attend.__name__}.{name}").__doc__ or "").split("\n\n")[0]
        reason = attend.why_not(name, device)
        rows[name] = {
            "kind": "dense", "available": not reason, "why not": reason, "summary": " ".join(summary.split()),
        }  # fmt: skip
    for name, summary in kernels.KERNELS.items():
        reason = kernels.why_not(name, device)
        rows[name] = {"kind": "kernel", "available": not reason, "why not": reason, "summary": summary}
    return rows


_AUTO = "sdpa where its kernels can serve the layer, eager elsewhere."


def _names(group: str) -> list[str]:
    from kvfrontier.runners import compose

    if group != "model":  # YAMLs alone, to list which needs no torch
        compose.register()
    return compose.names(group)


KINDS: dict[str, Kind] = {
    "methods": Kind(lambda: _names("method"), ("summary", "flags", "tags", "paper"), _methods, _method, "family"),
    "axes": Kind(_axis_names, ("summary", "parameters"), _axes, _axis, "axis", "choice of an axis"),
    "models": Kind(lambda: _names("model"), ("kind", "summary"), _models, _model),
    "tasks": Kind(lambda: _names("task"), ("primary", "summary"), _tasks, _task),
    "workloads": Kind(lambda: _names("workload"), ("requests", "longest", "tokens", "summary"), _workloads, _workload),
    "backends": Kind(
        lambda: list(_backends()),
        ("available", "why not", "summary"),
        _backends,
        lambda name: _backends()[name],
        "kind",
    ),
    "devices": Kind(lambda: list(_devices()), ("available", "device"), _devices, lambda name: _devices()[name]),
}
