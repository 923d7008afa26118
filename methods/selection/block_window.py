"""A window that loses its oldest tokens a block at a time, always at the same places of the text.

After n tokens the newest `window` stay, and the up to `block` - 1 that have come since the last block left. A query
sees all of them: between `window` + 1 and `window` + `block` keys, its own included. What leaves does so in whole
blocks, which a memory can pool. With `window` = `block` this is Transformer-XL's cache of the segment before, with
`window` = 0 the current segment alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from kvfrontier.methods.axes import Selection, When
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component


@component("selection", "block_window")
@dataclass(frozen=True)
class BlockWindowSelection(Selection):
    """The last `window` tokens, and those since the last block of `block` tokens left."""

    window: int = 256
    block: int = 64

    when: ClassVar[When] = "order"
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ValueError(f"window {self.window} is a number of tokens and cannot be negative; raise method.window")
        if self.block < 1:
            raise ValueError(f"block {self.block} lets no token leave; set method.block to at least 1")

    @property
    def knob(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "window" if self.window else None

    @property
    def local(self) -> bool:
        return True

    @property
    def most(self) -> int:
        return self.window + self.block

    @property
    def together(self) -> int:
        return self.block

    def room(self, n: int) -> int:
        return self.block - max(0, n - self.window) % self.block + max(0, self.window - n)

    def left(self, S: int, T: int) -> tuple[int, int]:
        return 0, self.block if self.window + self.block == S + T else 0

    def slots(self, prompt: int, new: int, sealed: bool, layer: Layer) -> int:
        n = prompt + new
        return n - max(0, n - self.window) // self.block * self.block

    def lossless(self, n: int) -> BlockWindowSelection:
        return replace(self, window=max(n, self.window))


@component("selection", "segment")
def segment(segment: int = 2048) -> BlockWindowSelection:
    """The current segment of the text, `segment` tokens long (Infini-attention's size), and nothing older."""
    if segment < 1:
        raise ValueError(f"segment {segment} holds no token; set method.segment to at least 1")
    return BlockWindowSelection(0, segment)
