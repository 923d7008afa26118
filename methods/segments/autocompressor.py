"""AutoCompressor (Chevalier et al. 2023, arXiv:2305.14788): a segment ends with learned summary tokens, and what the
model makes of them, its summary vectors, stands before all segments that follow. Unlike a recurrent memory the vectors
of all segments stay (section 3.2, "summary accumulation"):

    s_i = Transformer([s_1, ..., s_{i-1}, X_i, <Sum> ... <Sum>]) at the summary tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.segments.reading import (
    LearnedTokens,
    Reading,
    Segments,
    hidden_size,
    learned,
    vectors,
)
from kvfrontier.methods.state import Buf

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@register(
    "autocompressor",
    family="segments",
    paper="Chevalier et al. 2023, arXiv:2305.14788, section 3",
    cost="m floor(T / segment) vectors of the model's width; 2 Hkv d (as many, and T mod segment) elements a layer",
    tags=("growing", "internal", "lossy", "per sequence"),
)
@dataclass(frozen=True)
class AutoCompressor(Segments):
    """AutoCompressor: the current segment, and `summary` vectors of each segment before it.

    summary: vectors that a segment leaves; segment: its tokens.
    """

    summary: int = 50
    segment: int = 2048

    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.summary < 1:
            raise ValueError(f"summary {self.summary} leaves nothing of a segment; set method.summary to at least 1")
        if self.segment < 1:
            raise ValueError(f"segment {self.segment} holds no token; set method.segment to at least 1")

    @property
    def length(self) -> int:
        return self.segment

    def reach(self, trained: float) -> float:
        if math.isinf(trained):
            return trained
        # The last segment needs no place for tokens that ask, as long as it is not full.
        full = max(0, trained - self.segment) // self.summary
        return full * self.segment + min(self.segment - 1, trained)

    def module(self, layer: Layer) -> LearnedTokens | None:
        return LearnedTokens(self.summary, layer) if layer.index == 0 else None

    def init_state(self, layer: Layer, batch: int) -> Reading:
        state = super().init_state(layer, batch)
        if layer.index == 0:
            size = hidden_size(layer)
            state.carried = Buf.empty(batch, 0, size, dim=1, dtype=layer.dtype, device=layer.device)
        return state

    def asking(self, session: Session) -> Tensor:
        return learned(self.summary, session.layers[0], self.batch(session))

    def carry(self, carried: Buf, made: Tensor) -> None:
        carried.append(made)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        segments, inside = divmod(prompt + new, self.segment)
        held = self.holding(layer, batch, self.summary * segments + inside if inside else 0)
        return held + vectors(layer, batch, self.summary * segments, exact=False) if layer.index == 0 else held
