"""Command lines that run a board's cells again: each composes to exactly the cells of its records.

Every parameter is said, also where it is the default: a record's cell then stays what it is when a default changes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kvfrontier.analysis.rows import Board
from kvfrontier.runners.record import Cell, Record

#: Of a model's configuration: what its choice says already, and whether its terms were accepted.
_OF_THE_CHOICE = ("name", "kind", "architecture", "accept_terms")
#: What Hydra reads as a text without quotes: names and paths, and amounts (25%, 64MiB).
_BARE = re.compile(r"[A-Za-z_][\w./%-]*|\d+(\.\d+)?(%|[KMGT]i?B)")
_WORDS_THAT_ARE_VALUES = ("null", "true", "false", "nan", "inf")


def commands(board: Board) -> list[str]:
    """One command for each method, task and way of measuring, over the contexts that have it."""
    return [command for found in commands_of(board).values() for command in found]


def commands_of(board: Board) -> dict[str, list[str]]:
    """The commands of each method, in the board's order."""
    contexts: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    methods = {id: row.method for row in board.rows for id in row.records}
    place = {method: i for i, method in enumerate(board.methods)}
    for record in sorted(board.records, key=lambda r: (place[methods[r.id]], str(r.cell.task["name"]), r.cell.context)):
        found = contexts.setdefault((methods[record.id], tuple(_overrides(record))), [])
        found += [record.cell.context] * (record.cell.context not in found)
    commands: dict[str, list[str]] = {method: [] for method in board.methods}
    for (method, overrides), found in contexts.items():
        commands[method].append(
            shlex.join(["kvfrontier", "run", "-m", *overrides, f"context={','.join(map(str, found))}"])
        )
    return commands


def method_words(parameters: Mapping[str, Any]) -> str:
    """A method with all its parameters, as a command line has them."""
    return shlex.join(_chosen("method", parameters))


def _overrides(record: Record) -> Iterator[str]:
    """All of a cell but its context."""
    cell, config = record.cell, record.config
    model = config.get("model", {})
    yield f"model={model.get('name', cell.model)}"
    yield from _values("model", {k: v for k, v in model.items() if k not in _OF_THE_CHOICE})
    yield f"dtype={cell.dtype}"
    yield f"device={literal(cell.device)}"
    usual = {key: Cell.model_fields[key].default for key in ("batch", "seed")}
    yield from (f"{key}={getattr(cell, key)}" for key, value in usual.items() if getattr(cell, key) != value)
    for key, value in cell.protocol.items():
        yield f"{'meter' if key in config.get('meter', {}) else 'protocol'}.{key}={literal(value)}"
    # The knob that a budget solved is solved again; where none was found, the method is as it was asked for.
    yield from _chosen("method", cell.unsolved if cell.budget and cell.budget.matched else cell.method)
    if cell.budget:
        yield f"budget={literal(cell.budget.asked)}"
    if cell.memory_limit:
        yield f"memory_limit={cell.memory_limit}"
    if cell.search:
        yield f"+search={cell.search['name']}"
        yield from _values("search", {k: v for k, v in cell.search.items() if k != "name"})
    else:
        yield from _chosen("task", {k: v for k, v in cell.task.items() if k != "version"})


def _chosen(group: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """The choice of a group by its registered name, and its parameters; an axis of a composed cache is a group too."""
    yield f"{group}={literal(parameters['name'])}"
    axes = {k: v for k, v in parameters.items() if isinstance(v, Mapping) and "name" in v}
    yield from (f"{group}/{axis}={literal(choice['name'])}" for axis, choice in axes.items())
    yield from _values(group, {k: v for k, v in parameters.items() if k not in (*axes, "name")})
    for axis, choice in axes.items():
        yield from _values(f"{group}.{axis}", {k: v for k, v in choice.items() if k != "name"})


def _values(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{prefix}.{key}={literal(value)}" for key, value in values.items())


def literal(value: Any) -> str:
    """A value as Hydra's command line reads it back.

    >>> print(literal(None), literal("25%"), literal("a b"), literal(["a", 1]), literal({"0-1": {"b": 2}}))
    null 25% 'a b' [a,1] {0-1:{b:2}}
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if _BARE.fullmatch(value) and value.lower() not in _WORDS_THAT_ARE_VALUES:
            return value
        # Backslashes count only before a quote.
        return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), value) + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(str(k))}:{literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(literal, value)) + "]"
    return repr(value)


def _key(key: str) -> str:
    """A key of a dictionary: Hydra takes no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key)
