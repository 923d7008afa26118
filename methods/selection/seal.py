"""What selections at seal share: the whole prompt is held until it ends, then `budget` tokens of it stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kvfrontier.methods.axes import Selection, When
from kvfrontier.methods.layer import Layer


@dataclass(frozen=True)
class SealSelection(Selection):
    """`budget` tokens stay in each layer and head, those with the highest scores. A subclass gives `scores`."""

    budget: int = 256

    when: ClassVar[When] = "seal"
    knob: ClassVar[str | None] = "budget"

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget {self.budget} keeps no token; set method.budget to at least 1")

    def kept(self, n: int, layer: Layer) -> int:
        return min(n, self.budget)

    def lossless(self, n: int) -> Self:
        return replace(self, budget=max(n, self.budget))
