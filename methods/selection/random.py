"""Random eviction: the baseline that every other selection must beat. When the prompt ends, each head keeps tokens
drawn at random, as likely the first as the last.

A token's number is a function of its slot, the head, the layer and the seed alone, so that chunks, the rows of a batch
and forks draw the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.draws import draw
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection


@component("selection", "random")
@dataclass(frozen=True)
class RandomSelection(SealSelection):
    """`budget` tokens of each head, drawn without replacement; another `seed` draws others."""

    seed: int = 0

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        return draw(0, k.shape[2], k, layer, self.seed).expand(k.shape[:3])


@register(
    "random",
    family="selection",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T",
    tags=("growing", "internal", "lossy", "per head"),
)
def Random(budget: int = 256, seed: int = 0) -> Cached:
    """Random eviction: at the end of the prompt keep tokens drawn at random, others in each head.

    budget: tokens that stay in each layer and head. What is generated comes on top.
    """
    return Cached(RandomSelection(budget, seed))
