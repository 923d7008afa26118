"""Whether a method can serve a cell, known before the cell is run. Of several methods in a sweep, one that cannot is a
result (`infeasible`), and the others run; alone, it is a mistake of the person who asked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kvfrontier.methods import Dense, registry
from kvfrontier.methods.attend import NoBackend
from kvfrontier.runners import models
from kvfrontier.runners.cache import cache_dir, read_json, write_whole
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Cell, canonical_json, content_hash


def refusal(cell: Cell, model: Any, read: bool = True) -> str | None:
    """Why the cell's method cannot serve `model` (of transformers) at the cell's context, in a sentence; None where it
    can. Where `read`, two tokens are read besides, in which the method looks at every layer.

    Raises UsageError for a backend that is missing, which is a matter of the machine.
    """
    if cell.budget is not None and cell.budget.infeasible:
        return (
            f"budget={cell.budget.asked} is {cell.budget.limit:,} bytes, and {cell.method['name']} holds more at the "
            f"smallest method.{cell.budget.knob}; raise budget"
        )
    from kvfrontier.runners.session import Session  # which loads transformers

    try:
        with Session(model, registry.build(cell.method)) as session:
            if cell.workload and not session.bridge.learned_positions:
                session.bridge.max_positions = None  # its memory alone is asked for
            session.check_length(cell.context)
            if read:
                session.prefill(torch.zeros(1, 2, dtype=torch.long, device=session.layers[0].device))
    except NoBackend as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        return _placed(str(error), cell.method)
    return None


class Judge:
    """Asks once for cells that differ in what the method does not see: task, seed, protocol. `known`: what has been
    answered already, and what is answered now."""

    def __init__(self, judge: Callable[[Cell], str | None], known: dict[str, str | None] | None = None):
        self._judge = judge
        self._known = {} if known is None else known

    def __call__(self, cell: Cell) -> str | None:
        budget = cell.budget.model_dump() if cell.budget else None
        key = content_hash([cell.method, registry.source_hash(cell.method), cell.context, budget, bool(cell.workload)])
        if key not in self._known:
            self._known[key] = self._judge(cell)
        return self._known[key]


def foreseen(cells: Iterable[Cell], model: Mapping[str, Any]) -> list[str | None]:
    """`foresee` for each cell. Answers are kept in the user's cache, for as long as the sources that decide them stay:
    a model's shapes take seconds to make."""
    if model["kind"] == "hf" and not model.get("architecture"):
        # What lies at a path may change.
        return list(map(Judge(lambda cell: foresee(cell, model)), cells))
    memo = cache_dir() / "foreseen" / f"{content_hash([model, *deciding()])[:32]}.json"
    known = read_json(memo)
    before = len(known)
    found = list(map(Judge(lambda cell: foresee(cell, model), known), cells))
    if len(known) > before:
        with suppress(OSError):  # where the cache cannot be written, the next one asks again
            write_whole(memo, json.dumps(known).encode())
    return found


@cache
def deciding() -> tuple[str, ...]:
    """Versions and sources that decide what a model and a method are to each other, the method's own apart."""
    here = Path(__file__).parent
    names = ("bridge.py", "session.py", "refusal.py", "plan/sizes.py")
    files = [*(here / name for name in names), *sorted((here / "models").glob("*.py"))]
    source = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return version("torch"), version("transformers"), source


def foresee(cell: Cell, model: Mapping[str, Any]) -> str | None:
    """As `refusal`, for a model that is not loaded: from its shapes alone, by the keys of configs/model.

    Raises UsageError where the model is unknown, or none that any method can serve.
    """
    mode, skeleton = _skeleton(canonical_json({**model, "device": "cpu"}))
    with mode, torch.no_grad():
        return refusal(cell, skeleton, read=False)


@lru_cache(maxsize=1)
def _skeleton(model: str) -> tuple[Any, Any]:
    """A model of fake tensors, and the mode that they live in."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    with mode, torch.no_grad():
        skeleton = models.skeleton(json.loads(model))
        check_model(skeleton)
    return mode, skeleton


def check_model(model: Any) -> None:
    """Raise UsageError where no method can serve a model."""
    from kvfrontier.runners.session import Session

    with Session(model, Dense()):
        pass


def _placed(sentence: str, params: Mapping[str, Any]) -> str:
    """The sentence, with parameters of axes named where they are: `method.group` is `method.store.group` under
    `method=cached`."""

    def path(found: re.Match[str]) -> str:
        key = found[1]
        axes = [axis for axis, own in params.items() if isinstance(own, Mapping) and key in own]
        return f"method.{axes[0]}.{key}" if key not in params and len(axes) == 1 else found[0]

    return re.sub(r"\bmethod\.(\w+)", path, sentence)
