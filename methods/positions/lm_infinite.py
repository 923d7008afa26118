"""LM-Infinite (Han et al. 2023, arXiv:2308.16137): a Lambda-shaped mask, that is the first tokens and a window, and a
ceiling on distances: what is further away than the model has seen stands just there,

    distance(t, s) = min(t - s, ceiling)

The window keeps its distances, and the first tokens end at the ceiling, whatever the length. The paper's option of a
few tokens in the middle, found by attention, is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kvfrontier.methods.axes import ENDLESS, Positions
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.near_far import Far, NearFar
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.window import WindowSelection


@component("positions", "lm_infinite")
@dataclass(frozen=True)
class CeilingPositions(NearFar):
    """No distance exceeds `ceiling` tokens."""

    ceiling: int = 4096

    def __post_init__(self) -> None:
        if self.ceiling < 1:
            raise ValueError(f"ceiling {self.ceiling} leaves no distance; set method.ceiling to at least 1")

    @property
    def near(self) -> int:
        return self.ceiling

    def far(self) -> Positions:
        return Far(self.ceiling, group=ENDLESS)  # one group: keys at 0, the query at the ceiling

    def reach(self, trained: float) -> float:
        return math.inf if self.ceiling <= trained else trained

    def lossless(self, n: int) -> CeilingPositions:
        return replace(self, ceiling=n)


@register(
    "lm_infinite",
    family="positions",
    paper="Han et al. 2023, arXiv:2308.16137, section 4",
    cost="2 Hkv d min(T, s + w) elements, keys before RoPE",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def LMInfinite(window: int = 4096, sinks: int = 10) -> Cached:
    """LM-Infinite: the first `sinks` tokens and the last `window`, no distance beyond the window's.

    window in tokens: as many as the model was made for, at most; sinks: tokens that always stay.
    """
    if window < 1:
        raise ValueError(f"window {window} holds no token; set method.window to at least 1")
    return Cached(WindowSelection(window, sinks), positions=CeilingPositions(window))
