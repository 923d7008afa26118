"""`kvfrontier check`: the whole conformance suite on one method, ours or anybody's."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kvfrontier.methods import Method, registry
from kvfrontier.runners import conformance
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.progress import working
from kvfrontier.runners.tables import show_table


def show(target: str, settings: Sequence[str], as_json: bool) -> bool:
    """Run the suite on a method and print what holds. Returns whether all of it does.

    target     a registered name, or where a class or function is: `my_package.MyMethod`
    settings   `key=value`, its parameters
    """
    method = resolve(target, settings)
    with working(f"checking {target}") as say:
        results = list(_told(conformance.run(method), say))
    if as_json:
        print(json.dumps([{"check": r.name, "holds": r.holds, "found": r.found} for r in results]))
    else:
        rows = [(r.name.replace("_", " "), "holds" if r.holds else "FAILS", r.found) for r in results]
        show_table(f"{method}", ("check", "", "found"), rows)
        failing = sum(not r.holds for r in results)
        print(f"{len(results) - failing} of {len(results)} hold" + (_HINT if failing else ""))
    return all(r.holds for r in results)


_HINT = (
    f"; the text is {conformance.PROMPT} tokens and {conformance.NEW} decoded ones: give parameters so small that the "
    "method is at work in it, as budget=40"
)


def resolve(target: str, settings: Sequence[str]) -> Method:
    """The method that is named. Raises UsageError, with what to do, where there is none."""
    params = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} is no setting; write key=value")
        params[key] = yaml.safe_load(value)
    try:
        if "." not in target.replace(":", "."):
            return registry.build({"name": target, **params})
        built = _find(target)(**params)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    if not isinstance(built, Method):
        raise UsageError(f"{target} gives a {type(built).__name__}, which is no kvfrontier.methods.Method")
    return built


def _find(target: str) -> Callable[..., Any]:
    """What stands under a dotted name, also in the current folder."""
    module, _, name = target.replace(":", ".").rpartition(".")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {error.name!r} here or among the installed packages") from error
    except AttributeError as error:
        raise UsageError(f"module {module!r} has no {name!r}") from error
    if not callable(found):
        raise UsageError(f"{target} is no class or function")
    return found


def _told(results: Iterator[conformance.Result], say: Callable[[str], None]) -> Iterator[conformance.Result]:
    for result in results:
        say(result.name.replace("_", " "))
        yield result
