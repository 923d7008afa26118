"""Key norm (Devoto et al. 2024, arXiv:2406.11430): keys of small norm are those that attention looks at, whatever the
query. When the prompt ends, the tokens with the lowest ||k||_2 stay; no query is needed.

In the first layers norm and attention have little to do with each other, and the authors leave these whole; here, as in
NVIDIA's kvpress, all layers are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection


@component("selection", "keynorm")
@dataclass(frozen=True)
class KeyNormSelection(SealSelection):
    """The `budget` tokens of each head whose keys are shortest."""

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        return -k.float().norm(dim=-1)


@register(
    "keynorm",
    family="selection",
    paper="Devoto et al. 2024, arXiv:2406.11430",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T",
    tags=("growing", "internal", "lossy", "per head"),
)
def KeyNorm(budget: int = 256) -> Cached:
    """Key norm: at the end of the prompt keep the tokens with the shortest keys.

    budget: tokens that stay in each layer and head. What is generated comes on top.
    """
    return Cached(KeyNormSelection(budget))
