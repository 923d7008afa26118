"""YaRN (Peng et al. 2023, arXiv:2309.00071): each pair is stretched by what it has learned. A pair that turned often in
the trained length tells near distances and stays as it is; one that never went round is interpolated; a ramp lies
between (section 3.2, "NTK-by-parts"):

    f_i' = (1 - g_i) f_i + g_i f_i / factor,   g_i = 0 up to `beta_fast` turns, 1 below `beta_slow`

and logits are multiplied by (0.1 ln(factor) + 1)^2 (section 3.4). As in the authors' code, the ramp is linear in the
pair's index, between the whole indices around these two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvfrontier.methods.axes import arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Rope
from kvfrontier.methods.positions.frequencies import Stretched, check_stretch, trained_length
from kvfrontier.methods.registry import component, register


@component("positions", "yarn")
@dataclass(frozen=True)
class YarnPositions(Stretched):
    """RoPE's slow frequencies stretched, its fast ones as they are.

    factor    how many times longer the text may be
    trained   tokens that the model was made for; None: what it says itself
    beta_fast, beta_slow   turns in the trained length, from which a pair stays, and to which it is interpolated
    """

    factor: float = 4.0
    trained: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        check_stretch(self.factor, self.trained)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow {self.beta_slow} must lie between 0 and beta_fast {self.beta_fast}; both are turns in the "
                "trained length"
            )

    def frequencies(self, rope: Rope) -> Tensor:
        f = rope.frequencies
        n, f64 = len(f), f.double()
        turns = trained_length(self.trained, rope) * f64[0] / (2 * math.pi)
        per_pair = (f64[0] / f64[-1]).log() / max(1, n - 1)
        # Indices at which a pair makes that many turns.
        low = ((turns / self.beta_fast).log() / per_pair).floor().clamp(min=0)
        high = ((turns / self.beta_slow).log() / per_pair).ceil().clamp(max=2 * n - 1)
        # As a thousandth where they meet, so that the ramp is a step.
        span = torch.where(high == low, 1e-3, high - low)
        g = ((arange(0, n, f) - low) / span).clamp(0, 1).float()
        return (1 - g) * f + g * (f / self.factor)

    def temperature(self) -> float:
        return 0.1 * math.log(self.factor) + 1

    def reach(self, trained: float) -> float:
        return (self.trained or trained) * self.factor

    def lossless(self, n: int) -> YarnPositions:
        return replace(self, factor=1.0)


@register(
    "yarn",
    family="positions",
    paper="Peng et al. 2023, arXiv:2309.00071, sections 3.2 and 3.4",
    cost="2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def YaRN(factor: float = 4.0, trained: int | None = None, beta_fast: float = 32.0, beta_slow: float = 1.0) -> Cached:
    """YaRN: the full cache, frequencies stretched by parts, and sharper attention.

    factor: how many times longer the text may be than `trained`, the tokens that the model was made for (null: what it
    says). Pairs that turn more than beta_fast times in these stay; those below beta_slow turns are interpolated.
    """
    return Cached(positions=YarnPositions(factor, trained, beta_fast, beta_slow))
