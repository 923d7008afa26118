"""From axes to the cells of a sweep, each by its overrides: a product of axes, some of them zipped, less what is
excluded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from kvfrontier.runners.compose import Composer, parse
from kvfrontier.runners.errors import UsageError

#: One step along an axis: an override, or several that go together.
Step = tuple[str, ...]


def split(axes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Fixed overrides, and for every axis the overrides it ranges over. The last word on a key counts."""
    final = {o.get_key_element(): o for o in parse(axes)}
    fixed, swept = [], []
    for key, override in final.items():
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif override.is_discrete_sweep():
            swept.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UsageError(
                f"{override.input_line!r} is not a list of values; a sweep takes values with commas between them"
            )
    return fixed, swept


def zipped(entries: Iterable[Mapping[str, Sequence[Any]]], given: Iterable[str]) -> list[list[Step]]:
    """The axes that entries of `hydra.sweeper.zip` make: each maps keys to as many values, which advance together.

    A key among `given`, those of other overrides, has left its entry; the others go on. Raises UsageError.
    """
    given, axes = set(given), []
    for entry in entries:
        lengths = {key: len(values) if isinstance(values, (list, tuple)) else 0 for key, values in entry.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            told = ", ".join(f"{key} has {n}" for key, n in lengths.items())
            raise UsageError(f"zipped axes advance together, and take lists of as many values: {told or 'it is empty'}")
        kept = {key: values for key, values in entry.items() if key not in given}
        if kept:
            steps = zip(*([f"{key}={text(v)}" for v in values] for key, values in kept.items()), strict=True)
            axes.append(list(dict.fromkeys(steps)))
    return axes


def text(value: Any) -> str:
    """A value of a YAML as an override says it."""
    return "null" if value is None else str(value)


def combined(
    swept: Sequence[Sequence[str]],
    zips: Sequence[Sequence[Step]],
    exclude: Iterable[Mapping[str, Any]],
    composer: Composer,
) -> list[Step]:
    """The overrides of each cell that no entry of `exclude` drops."""
    rules = [_rule(entry) for entry in exclude]
    axes = [*([(o,) for o in axis] for axis in swept), *zips]
    cells = [tuple(o for step in steps for o in step) for steps in product(*axes)]
    return [overrides for overrides in cells if not any(rule(overrides, composer) for rule in rules)]


def _rule(entry: Mapping[str, Any]) -> Callable[[Sequence[str], Composer], bool]:
    """Whether a cell, given by its overrides, matches everything that an entry of `exclude` says."""
    wanted = {
        key: {str(v) for v in (values if isinstance(values, (list, tuple)) else [values])}
        for key, values in entry.items()
    }

    def holds(overrides: Sequence[str], composer: Composer) -> bool:
        given = dict(o.split("=", 1) for o in overrides)
        # Mostly an entry speaks of axes alone, and nothing need be composed to know them.
        return all(_matches(given.get(k) or composer(overrides).value(k), v) for k, v in wanted.items())

    return holds


def _matches(value: str, wanted: set[str]) -> bool:
    unwanted = {w[1:] for w in wanted if w.startswith("!")}
    return value in wanted or (bool(unwanted) and value not in unwanted)
