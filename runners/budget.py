"""Budgets that compare: one number of bytes, and each method at the largest setting that fits it.

    budget=256      as many bytes as dense attention holds for 256 tokens
    budget=25%      a quarter of what dense attention holds for the prompt
    budget=64MiB    bytes in total, over all layers and rows

A budget is compared with the method's analytic payload at `seal`, over all layers, with 16-bit elements whatever the
run computes in: scales, residuals and scores are counted, slack is not. The prompt is the task's
(`Task.prompt_tokens`). A method's knob (its `budget`, `window` or `residual`) is what is solved for; a
method without one is shown at its own size and marked "not matched".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from kvfrontier.methods import Cached, Dense, Layer, Method, PerLayer, Window, registry
from kvfrontier.runners.errors import UsageError

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

#: Budgets and shares are of dense attention at this many bits.
SIXTEEN_BITS = torch.bfloat16

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Solved:
    """What a budget came to.

    limit   bytes of payload at 16 bits
    params  the method's parameters; as they were given where nothing fits, or where there is no knob
    knob    the parameter that was solved for, as `budget` or `store.residual`, or None
    value   its value, or None where even the smallest does not fit
    got     bytes that the method then holds, by its closed form
    """

    limit: int
    params: dict[str, Any]
    knob: str | None
    value: int | None
    got: int


def solve(asked: str | int, params: Mapping[str, Any], layers: Sequence[Layer], batch: int, prompt: int) -> Solved:
    """The parameters under which a method holds as much as a budget allows, at the end of `prompt` tokens.

    params describe the method (registry.complete). Raises UsageError for a budget that cannot be read, and ValueError
    where the method cannot serve the layers.
    """
    limit = _limit(str(asked), layers, batch, prompt)
    method = registry.build(params)
    for layer in layers:
        method.validate(layer)
    at16 = tuple(layer.at(SIXTEEN_BITS) for layer in layers)
    knob, step = _knob(method, params)
    if knob is None:
        return Solved(limit, dict(params), None, None, payload(method, at16, batch, prompt))

    def held(value: int) -> int | None:
        """Bytes at this value; None where the method does not take it."""
        try:
            tried = registry.build(_with(params, knob, value))
            return payload(tried, at16, batch, prompt)
        except ValueError:
            return None

    value = _largest(held, limit, range(step, -(-prompt // step) * step + 1, step), monotone=step == 1)
    if value is None:
        return Solved(limit, dict(params), knob, None, 0)
    return Solved(limit, _with(params, knob, value), knob, value, held(value) or 0)


def payload(method: Method, layers: Iterable[Layer], batch: int, prompt: int) -> int:
    """Analytic bytes at seal, all layers and the sequence's state."""
    total = method.sequence_footprint(batch, prompt).held.payload
    for layer in layers:
        serving = Window(layer.window) if layer.window is not None else method.at(layer)
        if serving.source(layer) is None:
            total += serving.footprint(layer, batch, prompt).held.payload
    return total


def dense_payload(layers: Iterable[Layer], batch: int, prompt: int) -> int:
    """Bytes that dense attention holds at 16 bits. Layers that the model windows hold their window."""
    return payload(Dense(), (layer.at(SIXTEEN_BITS) for layer in layers), batch, prompt)


@dataclass(frozen=True)
class At16Bits:
    """Analytic payload at seal, with 16-bit elements: the method's and dense attention's, in bytes."""

    method: int
    dense: int

    @property
    def share(self) -> float | None:
        """The method's over dense attention's; None for a model that needs no state."""
        return self.method / self.dense if self.dense else None


def at_16_bits(session: Session, batch: int, prompt: int) -> At16Bits:
    """What a session that has just sealed `prompt` tokens in each of `batch` rows would hold at 16 bits."""
    layers = session.layers
    # What a hybrid model keeps is its own need, and stays under every method.
    foreign = session.footprint().held.payload - payload(session.method, layers, batch, prompt)
    at16 = [layer.at(SIXTEEN_BITS) for layer in layers]
    return At16Bits(
        method=foreign + payload(session.method, at16, batch, prompt),
        dense=foreign + dense_payload(layers, batch, prompt),
    )


def _limit(asked: str, layers: Sequence[Layer], batch: int, prompt: int) -> int:
    found = _AMOUNT.fullmatch(asked)
    unit = found[2].lower() if found else ""
    if not found or (unit not in ("", "%") and unit not in _UNITS) or (not unit and "." in found[1]):
        raise UsageError(
            f"budget={asked!r} is no amount; write tokens (256), a share of dense (25%) or bytes (64MiB, 1.5GB)"
        )
    amount = float(found[1])
    if not amount or (unit == "%" and amount > 100):
        raise UsageError(f"budget={asked!r} must be more than nothing, and a share no more than 100%")
    if not unit:
        return dense_payload(layers, batch, min(int(amount), prompt))
    if unit == "%":
        return int(dense_payload(layers, batch, prompt) * amount / 100)
    return int(amount * _UNITS[unit])


def _knob(method: Method, params: Mapping[str, Any]) -> tuple[str | None, int]:
    """Where in `params` the method's knob is, and in which steps it goes."""
    if isinstance(method, PerLayer):
        method, named = method.default, (params.get("layers") or {}).get("default")
        if named:
            knob, step = _knob(method, named)
            return knob and f"layers.default.{knob}", step
    if params["name"] != registry.COMPOSED or not isinstance(method, Cached):
        return method.knob, method.knob_step
    axis = next((axis for axis in ("selection", "store") if getattr(method, axis).knob), None)
    return (f"{axis}.{method.knob}" if axis and method.knob else None), method.knob_step


def _with(params: Mapping[str, Any], knob: str, value: int) -> dict[str, Any]:
    first, _, rest = knob.partition(".")
    return {**params, first: _with(params[first], rest, value) if rest else value}


def _largest(held: Any, limit: int, values: range, monotone: bool) -> int | None:
    """The value at which most is held of what fits. What a method does not take is too small for it."""
    sizes = lru_cache(maxsize=None)(held)
    if not monotone:
        fitting = [(size, value) for value in values if (size := sizes(value)) is not None and size <= limit]
        return max(fitting)[1] if fitting else None
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        size = sizes(values[middle])
        if size is None or size <= limit:
            low = middle + 1
        else:
            high = middle
    return values[low - 1] if low and sizes(values[low - 1]) is not None else None
