"""A session that asks a method and dense attention the same, layer by layer, and goes on with the latter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kvfrontier.methods import Dense, Method, Window
from kvfrontier.methods.contract import Step
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session


class SideBySide(Session):
    """A session of a method whose model goes on with dense attention's outputs. `errors` holds, for each layer, the
    relative error of every decoded token, [B, T] a call.

    Raises UsageError for a method that reads a text in an order of its own, and for a model that caches latents: there
    the two are not given the same.
    """

    def __enter__(self) -> SideBySide:
        super().__enter__()
        if self.method.drives or self.method.rereads or self.bridge.latents:
            self.__exit__()
            raise UsageError(
                f"{type(self.model).__name__} with {type(self.method).__name__}: its attention is not given the "
                "queries, keys and values that dense attention is; take task=perplexity"
            )
        return self

    def _fill_states(self) -> None:
        super()._fill_states()
        # The model's own layers: what a method shares between them is no part of dense attention.
        layers = self.bridge.layers
        self._exact: list[Method] = [
            Dense() if layer.window is None else Window(window=layer.window) for layer in layers
        ]
        self._exact_states: list[Any] = []
        for layer, method in zip(layers, self._exact, strict=True):
            source = layer.source
            self._exact_states.append(
                method.init_state(layer, self._batch) if source is None else self._exact_states[source]
            )
        self.errors: list[list[Tensor]] = [[] for _ in self._exact]

    def attend(
        self,
        index: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        pre: Callable[[], tuple[Tensor, Tensor]],
    ) -> Tensor:
        assert self._step is not None
        positions, start = self._step
        found = super().attend(index, q, k, v, sinks, pre)
        step = Step(positions.to(q.device), start, self._phase, self._pads, sinks, pre)
        exact = self._exact[index].attend(q, k, v, self._exact_states[index], self.bridge.layers[index], step)
        if self._phase == "decode":
            # [B, Hq, T, D]: norms over heads and their dimensions.
            far, size = (x.float().pow(2).sum((1, 3)).sqrt() for x in (found - exact, exact))
            self.errors[index].append((far / size).cpu())
        return exact
