"""Errors that the person at the keyboard can mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A request that cannot be served as it was put; one sentence that says what to do. The command exits with 2."""


class ContextError(UsageError):
    """A context that is too short for a task, or too long for it or for the model. Alone it is a mistake; in a sweep
    that has other cells it is a result (`infeasible`), and the others run."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist: the nearest one that does, or, where none is near, all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
    return UsageError(f"there is no {kind} {name!r}; {hint}")
