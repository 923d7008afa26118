"""Self-Extend (Jin et al. 2024, arXiv:2401.01325): a distance that the model never saw is read as a coarser one.
The `window` nearest tokens keep their distances; those before them are counted in groups,

    key s at floor(s / group),   query t at floor(t / group) + window - floor(window / group)      (equations 3, 4)

and both ranges join in one softmax. No training, and nothing is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvfrontier.methods.axes import Positions
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.near_far import Far, NearFar
from kvfrontier.methods.registry import component, register


@component("positions", "self_extend")
@dataclass(frozen=True)
class SelfExtendPositions(NearFar):
    """Exact distances below `window` tokens, groups of `group` tokens from there."""

    group: int = 6
    window: int = 1024

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"group {self.group} holds no token; set method.group to at least 1")
        if self.window < 1:
            raise ValueError(f"window {self.window} leaves out a token's own place; set method.window to at least 1")

    @property
    def near(self) -> int:
        return self.window

    def far(self) -> Positions:
        return Far(self.window, self.group)

    def reach(self, trained: float) -> float:
        return max(trained, (trained - self.window + self.window // self.group) * self.group)

    def lossless(self, n: int) -> SelfExtendPositions:
        return replace(self, group=1)


@register(
    "self_extend",
    family="positions",
    paper="Jin et al. 2024, arXiv:2401.01325, section 3",
    cost="2 Hkv d T elements, keys before RoPE",
    tags=("growing", "internal", "lossy", "per layer"),
)
def SelfExtend(group: int = 6, window: int = 1024) -> Cached:
    """Self-Extend: the full cache; exact positions near, grouped ones far.

    window: tokens whose distances are exact, the query's own included; group: tokens that share a position beyond. The
    text may be about `group` times longer than the model was made for.
    """
    return Cached(positions=SelfExtendPositions(group, window))
