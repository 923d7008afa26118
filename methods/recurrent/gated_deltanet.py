"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464): the delta rule replaces single values, a decay clears the whole
matrix, and each token sets both:

    S_t = alpha_t S_{t-1} + beta_t k_t (v_t - alpha_t S_{t-1}^T k_t)^T,   o_t = S_t^T q_t           (equation 10)

beta_t is DeltaNet's, alpha_t = exp(-A dt_t) Mamba-2's. Keys and queries have length one. The paper's short
convolutions, SiLU, output gate and norm are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.gates import PerHead, StepSize, logits, step_size
from kvfrontier.methods.recurrent.matrix import ByKernel
from kvfrontier.methods.registry import register


@register(
    "gated_deltanet",
    family="recurrent",
    paper="Yang et al. 2024, arXiv:2412.06464, equation 10",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class GatedDeltaNet(ByKernel):
    """The delta rule with a decay: one matrix a head, in which values are replaced one by one or forgotten together."""

    def module(self, layer: Layer) -> nn.Module:
        return nn.ModuleDict({"beta": PerHead(layer.hkv, layer.dv, 1), "alpha": StepSize(layer)})

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        gates: Any = layer.params or {"beta": None, "alpha": None}
        beta, (_, g) = logits(gates["beta"], v, 1).sigmoid(), step_size(gates["alpha"], v)
        return self.delta_rule(F.normalize(q, dim=-1) * layer.scale, F.normalize(k, dim=-1), v, beta, S, layer, g)
