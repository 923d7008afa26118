"""Recurrent Memory Transformer (Bulatov et al. 2022, arXiv:2207.06881): a text is read in segments, and a few memory
vectors go from each to the next. With H the memory, X_t the embeddings of segment t (equations 1 to 3):

    [read, Y_t, write] = Transformer([H_t, X_t, H_t]),   H_{t+1} = write

The read copy stands before the segment, where all its tokens see it; the write copy behind, where it sees them all. The
first memory is learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.segments.reading import LearnedTokens, Reading, Segments, learned, vectors
from kvfrontier.methods.state import Buf

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@register(
    "rmt",
    family="segments",
    paper="Bulatov et al. 2022, arXiv:2207.06881, equations 1-3",
    cost="m vectors of the model's width, and 2 Hkv d (m + T mod segment) elements a layer",
    tags=("fixed", "internal", "lossy", "per sequence"),
)
@dataclass(frozen=True)
class RMT(Segments):
    """Recurrent Memory Transformer: the current segment, and `memory` vectors from all before it.

    memory: vectors that are carried on; segment: tokens that are read between.
    """

    memory: int = 10
    segment: int = 512

    bounded: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"memory {self.memory} carries nothing on; set method.memory to at least 1")
        if self.segment < 1:
            raise ValueError(f"segment {self.segment} holds no token; set method.segment to at least 1")

    @property
    def length(self) -> int:
        return self.segment

    def reach(self, trained: float) -> float:
        # Without room for both copies of the memory around a whole segment, the first one must not become full.
        if trained >= self.segment + 2 * self.memory:
            return math.inf
        return min(self.segment - 1, trained - self.memory)

    def module(self, layer: Layer) -> LearnedTokens | None:
        return LearnedTokens(self.memory, layer) if layer.index == 0 else None

    def init_state(self, layer: Layer, batch: int) -> Reading:
        state = super().init_state(layer, batch)
        if layer.index == 0:
            state.carried = Buf(learned(self.memory, layer, batch).clone(), self.memory, dim=1, exact=True)
        return state

    def asking(self, session: Session) -> Tensor:
        return session.states[0].carried.view()

    def carry(self, carried: Buf, made: Tensor) -> None:
        carried.set(made)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        inside = (prompt + new) % self.segment
        held = self.holding(layer, batch, self.memory + inside if inside else 0)
        return held + vectors(layer, batch, self.memory, exact=True) if layer.index == 0 else held
