"""The tasks of this folder, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.tasks.task import Task


@cache
def tasks() -> dict[str, type[Task]]:
    """Every task by its name: the concrete `Task` classes that the files of this folder define."""
    package = import_module(__package__ or "")
    found: dict[str, type[Task]] = {}
    for info in walk_packages(package.__path__, f"{__package__}."):
        module = import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or not issubclass(cls, Task):
                continue
            if "name" in vars(cls) and not inspect.isabstract(cls):
                if cls.name in found:
                    raise RuntimeError(
                        f"two tasks are named {cls.name!r}: {found[cls.name].__module__}, {cls.__module__}"
                    )
                found[cls.name] = cls
    return dict(sorted(found.items()))


def names() -> list[str]:
    """Names of all tasks, in alphabetical order."""
    return list(tasks())


def describe(name: str) -> dict[str, Any]:
    """What `kvfrontier list tasks NAME` shows: summary, version, primary score, parameters with their defaults."""
    cls = _find(name)
    task = cls()
    return {
        "name": name,
        "summary": cls.summary,
        "version": cls.version,
        "primary": cls.primary,
        "parameters": {f.name: None for f in fields(cls)} | {k: v for k, v in task.parameters().items() if k != "name"},
        "hash": task.hash(),
    }


def make(config: Mapping[str, Any]) -> Task:
    """The task that `config` names, with its other keys as parameters.

    Raises UsageError, with the nearest real name, for a task or parameter that does not exist, and for a value of
    the wrong type or outside its range.
    """
    config = dict(config)
    cls = _find(str(config.pop("name", "")))
    known = [f.name for f in fields(cls)]
    for key in config:
        if key not in known:
            raise unknown(f"parameter of task {cls.name}", key, known)
    try:
        return TypeAdapter(cls).validate_python(config)
    except ValidationError as error:
        first = error.errors()[0]
        # A field's own error says where; one of __post_init__ names its parameter itself.
        where = "".join(f".{part}" for part in first["loc"][:1])
        given = f"={first['input']!r}" if where else f" {cls.name}"
        raise UsageError(f"task{where}{given}: {first['msg'].removeprefix('Value error, ')}") from error


def _find(name: str) -> type[Task]:
    if name not in tasks():
        raise unknown("task", name, names())
    return tasks()[name]
