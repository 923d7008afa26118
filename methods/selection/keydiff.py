"""KeyDiff (Park et al. 2025, arXiv:2504.15364): keys that differ from the others carry the attention. When the prompt
ends, the tokens stay whose keys are least like the mean key,

    score_i = -cos(k_i, mean_j k_j / ||k_j||)

The paper also evicts so after each block of a long prompt; here the prompt is scored once, as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection


@component("selection", "keydiff")
@dataclass(frozen=True)
class KeyDiffSelection(SealSelection):
    """The `budget` tokens of each head whose keys are least like their mean."""

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        directions = F.normalize(k.float(), dim=-1)
        return -(directions @ F.normalize(directions.mean(2), dim=-1).unsqueeze(-1)).squeeze(-1)


@register(
    "keydiff",
    family="selection",
    paper="Park et al. 2025, arXiv:2504.15364",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T",
    tags=("growing", "internal", "lossy", "per head"),
)
def KeyDiff(budget: int = 256) -> Cached:
    """KeyDiff: at the end of the prompt keep the tokens whose keys differ most from the mean key.

    budget: tokens that stay in each layer and head. What is generated comes on top.
    """
    return Cached(KeyDiffSelection(budget))
