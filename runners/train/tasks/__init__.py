"""Tasks of the trained track. One file a task; `make` and `names` find them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.train.tasks.task import IGNORED, Batch, Shape, TrainedTask

__all__ = ["IGNORED", "Batch", "Shape", "TrainedTask", "make", "of", "tasks"]


@cache
def tasks() -> dict[str, type[TrainedTask]]:
    """Every task by its name."""
    found: dict[str, type[TrainedTask]] = {}
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, TrainedTask) and not inspect.isabstract(cls):
                found[cls.name] = cls
    return dict(sorted(found.items()))


def make(config: Mapping[str, Any]) -> TrainedTask:
    """The task that `config` names, with its other keys as parameters. Raises UsageError, with what to change."""
    given = dict(config)
    name = str(given.pop("name", ""))
    if name not in tasks():
        raise unknown("task of the trained track", name, tasks())
    cls = tasks()[name]
    known = [f.name for f in fields(cls)]
    for key in given:
        if key not in known:
            raise unknown(f"parameter of task {name}", key, known)
    try:
        return TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f".{part}" for part in first["loc"])
        raise UsageError(f"task{where}: {first['msg'].removeprefix('Value error, ')}") from error


def of(cell: Mapping[str, Any]) -> tuple[TrainedTask, Shape]:
    """The task and shape that a record's cell names (`TrainedTask.asked`). Raises UsageError where there is none."""
    name = str(cell.get("name", ""))
    if name not in tasks():
        raise unknown("task of the trained track", name, tasks())
    shape = {key: cell[key] for key in ("length", *tasks()[name].shape) if key in cell}
    rest = {key: value for key, value in cell.items() if key not in (*shape, "version")}
    return make({**rest, "train": [{**shape, "examples": 1}], "test": [shape]}), shape
