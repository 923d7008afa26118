"""ALiBi (Press et al. 2021, arXiv:2108.12409): no rotation; attention falls off with distance, in each head at its own
speed,

    logit(t, s) = q_t . k_s scale - m_h (t - s),   m_h = 2^(-8 h / Hq),  h = 1 ... Hq

The term is linear in s and in t, so it is two more columns: the key's place and one, against the slope and the query's
place times the slope. For models that were trained so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.axes import Positions, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import component, register


def slopes(heads: int) -> list[float]:
    """m_h of each head. Where `heads` is no power of two: those of the power below, then every other of the next."""
    below = 1 << (heads.bit_length() - 1)

    def geometric(n: int) -> list[float]:
        return [2 ** (-8 * h / n) for h in range(1, n + 1)]

    return geometric(below) + geometric(2 * below)[::2][: heads - below]


@component("positions", "alibi")
@dataclass(frozen=True)
class AlibiPositions(InCachePositions):
    """A penalty that grows with the distance of slots, in place of RoPE."""

    columns: ClassVar[int] = 2
    needs_training: ClassVar[bool] = True

    def validate(self, layer: Layer) -> None:
        if layer.softcap is not None:
            raise ValueError("this model caps its logits, and ALiBi's bias would be capped too; choose other positions")

    def reach(self, trained: float) -> float:
        return math.inf  # what a model trained on short texts is to read long ones by

    def at(self, n: int, layer: Layer) -> Positions:
        return Biased(n)

    def lossless(self, n: int) -> None:
        return None


@dataclass(frozen=True)
class Biased(AlibiPositions):
    """While `end` slots are in use; places count back from there, so that they stay small near the query."""

    end: int

    def keys(self, k: Tensor, slot: int, layer: Layer) -> Tensor:
        place = arange(slot - self.end, slot - self.end + k.shape[2], k).float()
        added = torch.stack((place, torch.ones_like(place)), -1)
        # In float32: bfloat16 counts to 256.
        return torch.cat((k.float(), added.expand(*k.shape[:3], 2)), -1)

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        assert q_pre is not None
        m = torch.tensor(slopes(layer.hq), device=q.device)[:, None] / layer.scale
        # The query's own place matters where parts of the text see it at different ones: sinks at the window's edge.
        added = torch.stack((m.expand(-1, len(slots)), -m * (slots - self.end)), -1)
        return torch.cat((q_pre.float(), added.expand(*q.shape[:3], 2)), -1)


@register(
    "alibi",
    family="positions",
    paper="Press et al. 2021, arXiv:2108.12409, section 3",
    cost="2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def ALiBi() -> Cached:
    """ALiBi: the full cache; instead of rotations a penalty that grows with distance. Needs training."""
    return Cached(positions=AlibiPositions())
