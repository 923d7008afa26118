"""DuoAttention (Xiao et al. 2024, arXiv:2410.10819): two kinds of heads. A few *retrieval* heads need the whole text;
the rest, *streaming* heads, do with attention sinks and a window:

    o_h = softmax(q_h K_h^T) V_h             h retrieves
    o_h = softmax(q_h K_h[C]^T) V_h[C]       h streams, C = the first `sinks` and the last `window` tokens

The layer's state is two caches of different length, of the heads of either kind. Which key/value heads retrieve is
learned in the paper (one gate each, kept as a file of scores); the share asked for keeps the highest, as a quantile.
Without scores they are spread evenly: of all heads, counted through the layers, number i retrieves where the share's
multiple passes a whole number, floor((i + 1) share) > floor(i share). That rule knows nothing of the model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.cached import Cached, CachedState
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.state import State


@dataclass
class HeadKindsState(State):
    """kinds: the caches of the retrieval heads and of the streaming heads; None for a kind that has no head here."""

    kinds: list[CachedState | None]


@dataclass(frozen=True)
class HeadKinds(Method):
    """retrieval: share of the key/value heads that hold everything; window, sinks: tokens that the others hold;
    scores[layer][head]: the higher, the sooner a head retrieves; None: spread evenly."""

    retrieval: float = 0.5
    window: int = 256
    sinks: int = 64
    scores: tuple[tuple[float, ...], ...] | None = None

    knob: ClassVar[str | None] = "window"

    def __post_init__(self) -> None:
        if not 0 <= self.retrieval <= 1:
            raise ValueError(f"retrieval {self.retrieval} is no share of the heads; set method.retrieval from 0 to 1")
        if self.window < 1:
            raise ValueError(f"window {self.window} holds no token; set method.window to at least 1")

    @property
    def bounded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.retrieval == 0

    @property
    def _caches(self) -> tuple[Cached, Cached]:
        return Cached(), Cached(WindowSelection(self.window, self.sinks))

    def validate(self, layer: Layer) -> None:
        shape = [layer.hkv] * layer.count
        if self.scores is not None and [len(row) for row in self.scores] != shape:
            raise ValueError(
                f"the pattern must have a row of {layer.hkv} scores for each of {layer.count} layers; give the "
                "model's own file as method.pattern"
            )

    def heads(self, layer: Layer) -> tuple[list[int], list[int]]:
        """Key/value heads of this layer that retrieve, and that stream."""
        first, total = layer.index * layer.hkv, layer.count * layer.hkv
        if self.scores is None:
            chosen = {i for i in range(total) if math.floor((i + 1) * self.retrieval) > math.floor(i * self.retrieval)}
        else:
            flat = [score for row in self.scores for score in row]
            # As many as reach the quantile 1 - share, which interpolates between ranks 0 and total - 1; of equal
            # scores the earlier ones.
            count = total - math.ceil(round((1 - self.retrieval) * (total - 1), 9)) if self.retrieval else 0
            chosen = set(sorted(range(total), key=lambda i: -flat[i])[:count])
        kinds = [first + h in chosen for h in range(layer.hkv)]
        return [h for h, kind in enumerate(kinds) if kind], [h for h, kind in enumerate(kinds) if not kind]

    def init_state(self, layer: Layer, batch: int) -> HeadKindsState:
        return HeadKindsState(
            [
                cache.init_state(_of(layer, heads), batch) if heads else None
                for cache, heads in zip(self._caches, self.heads(layer), strict=True)
            ]
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        kinds, outputs = self.heads(layer), []
        for cache, heads, own in zip(self._caches, kinds, state.kinds, strict=True):
            if heads:
                rows = [h * layer.group + g for h in heads for g in range(layer.group)]
                sinks = None if step.sinks is None else step.sinks[rows]
                outputs.append(
                    cache.attend(
                        q[:, rows], k[:, heads], v[:, heads], own, _of(layer, heads), replace(step, sinks=sinks)
                    )
                )
        place = torch.tensor(kinds[0] + kinds[1], device=q.device).argsort()
        return torch.cat(outputs, 1).unflatten(1, (layer.hkv, -1))[:, place].flatten(1, 2)

    def seal(self, state: Any, layer: Layer) -> None:
        for cache, heads, own in zip(self._caches, self.heads(layer), state.kinds, strict=True):
            if heads:
                cache.seal(own, _of(layer, heads))

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        total = Footprint()
        for cache, heads in zip(self._caches, self.heads(layer), strict=True):
            if heads:
                total += cache.footprint(_of(layer, heads), batch, prompt, new, sealed)
        return total

    def lossless(self, n: int) -> HeadKinds:
        return replace(self, retrieval=1.0)


def _of(layer: Layer, heads: list[int]) -> Layer:
    """The layer as these key/value heads alone."""
    return replace(layer, hq=len(heads) * layer.group, hkv=len(heads))


def read_scores(path: str) -> tuple[tuple[float, ...], ...]:
    """Scores of a file: JSON, a list of heads for each layer; or the official `full_attention_heads.tsv`."""
    text = Path(path).read_text(encoding="utf-8")
    rows = json.loads(text) if path.endswith(".json") else [line.split("\t") for line in text.splitlines() if line]
    # Clipped as officially: scores outside of [0, 1] are ties.
    return tuple(tuple(min(1.0, max(0.0, float(score))) for score in row) for row in rows)


@register(
    "duo",
    family="patterns",
    paper="Xiao et al. 2024, arXiv:2410.10819, sections 2.2 and 2.3",
    cost="2 d (r Hkv T + (1 - r) Hkv min(T, s + w)) elements, r the share of retrieval heads",
    tags=("growing", "internal", "lossy", "per head"),
)
def Duo(retrieval: float = 0.5, window: int = 256, sinks: int = 64, pattern: str | None = None) -> HeadKinds:
    """DuoAttention: retrieval heads hold everything, streaming heads hold sinks and a window.

    retrieval: share of key/value heads that hold everything; window and sinks in tokens; pattern: a file of scores for
    each layer and head (JSON or TSV), of which the highest retrieve. Without one they are spread evenly over the model.
    """
    return HeadKinds(retrieval, window, sinks, None if pattern is None else read_scores(pattern))
