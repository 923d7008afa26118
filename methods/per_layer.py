"""Another method in some layers: `method.layers={0-1: dense}` on the command line.

The session asks `at(layer)` and talks to the answer; called directly, a `PerLayer` passes everything on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint, Method, Run, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import called

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

_SPEC = re.compile(r"(-?\d+)|(?:(\d+)-(\d+))?(?:/(\d+))?")


@dataclass(frozen=True)
class Layers:
    """Layers by their index: "3", "-1" (the last), "0-1" (both ends), "/4" (every fourth, the first among them), or
    "8-31/4"."""

    spec: str

    def __post_init__(self) -> None:
        if not self.spec or not _SPEC.fullmatch(self.spec) or self.spec.endswith("/0"):
            raise ValueError(
                f"layers {self.spec!r} name none; write an index (3), -1 for the last, a range with both ends (0-1), "
                "or every fourth (/4, 8-31/4)"
            )

    def of(self, count: int) -> range:
        """Indices among `count` layers."""
        found = _SPEC.fullmatch(self.spec)
        assert found is not None
        index, first, last, step = (None if part is None else int(part) for part in found.groups())
        if index is not None:
            index = index % count if index < 0 else index
            return range(index, index + 1)
        return range(first or 0, count if last is None else last + 1, step or 1)


def _all(flag: str) -> Any:
    return property(lambda self: all(getattr(method, flag) for method in self.methods))


def _any(flag: str) -> Any:
    return property(lambda self: any(getattr(method, flag) for method in self.methods))


@dataclass(frozen=True)
class PerLayer(Method):
    """`default` in every layer that no choice names. Later choices win."""

    default: Method
    choices: tuple[tuple[Layers, Method], ...]

    chunk_invariant: ClassVar[bool] = _all("chunk_invariant")
    decode_equals_prefill: ClassVar[bool] = _all("decode_equals_prefill")
    differentiable: ClassVar[bool] = _all("differentiable")
    bounded: ClassVar[bool] = _all("bounded")
    query_sensitive: ClassVar[bool] = _any("query_sensitive")
    simulated: ClassVar[bool] = _any("simulated")
    needs_training: ClassVar[bool] = _any("needs_training")
    shareable: ClassVar[bool] = _all("shareable")
    unrotated: ClassVar[bool] = _any("unrotated")

    def __post_init__(self) -> None:
        for method in self.methods:
            if method.drives:
                raise ValueError(
                    f"{called(method)} drives the whole model: it reads the text in an order of its own, through all "
                    "layers together, and cannot serve single layers; leave out method.layers, or choose another method"
                )
            if isinstance(method, PerLayer):
                raise ValueError("layers are chosen once; a method that chooses by layer cannot serve single layers")

        if len({method for method in self.methods if method.rereads}) > 1:
            raise ValueError(
                "two methods have the prompt read again, each in a way of its own; give the same to all layers that "
                "need it"
            )

    @property
    def drives(self) -> bool:
        return False

    @property
    def rereads(self) -> bool:
        return self._reader is not None

    @property
    def _reader(self) -> Method | None:
        """The one that has the prompt read again: by all layers, whose other methods attend as to any text."""
        return next((method for method in self.methods if method.rereads), None)

    @property
    def methods(self) -> Iterator[Method]:
        """All methods that may serve."""
        yield self.default
        yield from (method for _, method in self.choices)

    @property
    def adopts(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        needs = {method.adopts for method in self.methods}
        return None if None in needs else "kv+queries" if "kv+queries" in needs else "kv"

    @property
    def last_queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(method.last_queries for method in self.methods)

    @property
    def knob(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.default.knob

    @property
    def knob_step(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.default.knob_step

    def at(self, layer: Layer) -> Method:
        chosen = [method for layers, method in self.choices if layer.index in layers.of(layer.count)]
        return (chosen[-1] if chosen else self.default).at(layer)

    def validate(self, layer: Layer) -> None:
        for layers, _ in self.choices:
            missing = [i for i in layers.of(layer.count) if i >= layer.count]
            if missing:
                raise ValueError(
                    f"layers {missing} do not exist; the model has attention layers 0 to {layer.count - 1}"
                )
        self.at(layer).validate(layer)

    def reach(self, trained: float) -> float:
        return min(method.reach(trained) for method in self.methods)

    def source(self, layer: Layer) -> int | None:
        return self.at(layer).source(layer)

    def module(self, layer: Layer) -> Any:
        return self.at(layer).module(layer)

    def init_state(self, layer: Layer, batch: int) -> Any:
        return self.at(layer).init_state(layer, batch)

    def init_sequence(self, batch: int, device: torch.device | str) -> Any:
        return None if self._reader is None else self._reader.init_sequence(batch, device)

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        return super().drive(run, ids, session) if self._reader is None else self._reader.drive(run, ids, session)

    def second_pass(self, run: Run, session: Session) -> None:
        if self._reader is not None:
            self._reader.second_pass(run, session)

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        reader = self._reader
        return Footprint() if reader is None else reader.sequence_footprint(batch, prompt, new, sealed)

    def latent(self, a: Tensor, b: Tensor, state: Any, layer: Layer) -> tuple[Tensor, Tensor]:
        return self.at(layer).latent(a, b, state, layer)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        return self.at(layer).attend(q, k, v, state, layer, step)

    def seal(self, state: Any, layer: Layer) -> None:
        self.at(layer).seal(state, layer)

    def adopt(self, state: Any, layer: Layer, k: Tensor, v: Tensor, queries: Tensor | None) -> None:
        self.at(layer).adopt(state, layer, k, v, queries)

    def prefetch(self, state: Any, layer: Layer) -> None:
        self.at(layer).prefetch(state, layer)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.at(layer).footprint(layer, batch, prompt, new, sealed)

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        return self.at(layer).nominal(layer, batch, prompt, new)

    def lossless(self, n: int) -> Method | None:
        found = [method.lossless(n) for method in self.methods]
        if None in found:
            return None
        default, *rest = found
        assert default is not None
        return PerLayer(default, tuple((c[0], m) for c, m in zip(self.choices, rest, strict=True) if m is not None))
