"""Linear interpolation (Chen et al. 2023, arXiv:2306.15595, equation 3): a text `factor` times too long is pressed into
the positions that the model knows. Token m stands at m / factor. The small distances shrink too, which is why the paper
fine-tunes for a thousand steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Rope
from kvfrontier.methods.positions.frequencies import Stretched, check_stretch
from kvfrontier.methods.registry import component, register


@component("positions", "linear")
@dataclass(frozen=True)
class LinearPositions(Stretched):
    """All positions divided by `factor`."""

    factor: float = 4.0

    def __post_init__(self) -> None:
        check_stretch(self.factor)

    def frequencies(self, rope: Rope) -> Tensor:
        return rope.frequencies / self.factor

    def reach(self, trained: float) -> float:
        return trained * self.factor

    def lossless(self, n: int) -> LinearPositions:
        return replace(self, factor=1.0)


@register(
    "linear_interpolation",
    family="positions",
    paper="Chen et al. 2023, arXiv:2306.15595, equation 3",
    cost="2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def LinearInterpolation(factor: float = 4.0) -> Cached:
    """Position interpolation: the full cache, and positions divided by `factor`.

    factor: how many times longer the text may be than the model was made for.
    """
    return Cached(positions=LinearPositions(factor))
