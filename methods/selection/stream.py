"""What selections share that evict by scores while the text goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kvfrontier.methods.axes import Selection, When
from kvfrontier.methods.contract import Phase
from kvfrontier.methods.layer import Layer


@dataclass(frozen=True)
class StreamSelection(Selection):
    """Back to `budget` tokens whenever `block` more have come. A subclass gives `observe` and `scores`.

    With block 1 each token evicts one, as papers have it. A larger block attends to its tokens in one call, at the
    price of up to `block` - 1 slots over the budget; where blocks end depends on the number of tokens alone.
    """

    budget: int = 256
    block: int = 1

    when: ClassVar[When] = "stream"
    observes: ClassVar[tuple[Phase, ...]] = ("prefill", "decode")
    wants_weights: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    knob: ClassVar[str | None] = "budget"

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget {self.budget} keeps no token; set method.budget to at least 1")
        if self.block < 1:
            raise ValueError(f"block {self.block} evicts before a token has come; set method.block to at least 1")

    @property
    def most(self) -> int:
        return self.budget + self.block

    def room(self, n: int) -> int:
        return self.block - max(0, n - self.budget) % self.block + max(0, self.budget - n)

    def kept(self, n: int, layer: Layer) -> int:
        return min(n, self.budget)

    def slots(self, prompt: int, new: int, sealed: bool, layer: Layer) -> int:
        n = prompt + new
        return n if n <= self.budget else self.budget + (n - self.budget) % self.block

    def lossless(self, n: int) -> Self:
        return replace(self, budget=max(n, self.budget))
