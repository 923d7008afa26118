"""Transformer-XL (Dai et al. 2019, arXiv:1901.02860): segment-level recurrence. A text is read in segments; each
attends to itself and to what is kept of the segments before it, through which no gradient goes,

    K = [SG(K_before) ; K_segment],   V = [SG(V_before) ; V_segment]

so that training costs a segment, whatever the text's length; what is read is a block window. The paper keeps hidden
states, from which every segment computes keys and values anew, and encodes distances by matrices of its own; here keys
and values are kept, and the model's own rotation is relative already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import register
from kvfrontier.methods.selection.block_window import BlockWindowSelection
from kvfrontier.methods.stores.dense import DenseStore


@dataclass(frozen=True)
class SegmentStore(DenseStore):
    """Keys and values as they are; the gradient to them stops where a segment of `block` tokens ends. Segments are
    counted so that one ends when the `window` is full."""

    window: int = 128
    block: int = 128

    def room(self, state: Any) -> int:
        return self.block - (state.k.n - self.window) % self.block

    def settle(self, state: Any) -> None:
        if self.room(state) == self.block:
            for buf in (state.k, state.v):
                buf.x = buf.x.detach()


@register(
    "transformer_xl",
    family="memory",
    paper="Dai et al. 2019, arXiv:1901.02860, section 3.2",
    cost="2 Hkv d (w + (T - w) mod block) elements",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def TransformerXL(window: int = 384, block: int = 384) -> Cached:
    """Transformer-XL: the segment that is read, and a window of those before it, which get no gradient.

    window: tokens kept of the segments before; block: tokens of a segment (384 each in the paper's large model of
    WikiText-103, which is evaluated with a longer window).
    """
    return Cached(BlockWindowSelection(window, block), SegmentStore(window, block))
