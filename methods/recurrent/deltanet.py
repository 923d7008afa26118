"""DeltaNet (Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484): linear attention that corrects
instead of adding. What the matrix now gives for a key is moved towards the new value, by a step that the token sets:

    S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T,   o_t = S_t^T q_t,   beta_t = sigmoid(w v_t + b)

Keys and queries have length one, so that beta = 1 replaces exactly. The paper's short convolutions, SiLU and output
norm are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.gates import PerHead, logits
from kvfrontier.methods.recurrent.matrix import ByKernel
from kvfrontier.methods.registry import register


@register(
    "deltanet",
    family="recurrent",
    paper="Yang et al. 2024, arXiv:2406.06484, section 3",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class DeltaNet(ByKernel):
    """The delta rule: one matrix a head, in which a key's new value replaces the old one, by half where untrained."""

    def module(self, layer: Layer) -> nn.Module:
        return PerHead(layer.hkv, layer.dv, 1)

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        beta = logits(layer.params, v, 1).sigmoid()
        return self.delta_rule(F.normalize(q, dim=-1) * layer.scale, F.normalize(k, dim=-1), v, beta, S, layer)
