"""State-space duality, Mamba-2's layer (Dao & Gu 2024, arXiv:2405.21060): a state-space model whose transition is one
number a head is linear attention with a decay that each token sets:

    S_t = exp(-A dt_t) S_{t-1} + dt_t k_t v_t^T,   o_t = q_t^T S_t,   dt_t = softplus(w v_t + b)

with C, B and x of the paper for q, k and v. Its convolution, skip D x, gate and norm are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.gates import StepSize, step_size
from kvfrontier.methods.recurrent.matrix import ByKernel
from kvfrontier.methods.registry import register


@register(
    "ssd",
    family="recurrent",
    paper="Dao & Gu 2024, arXiv:2405.21060, section 7",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class SSD(ByKernel):
    """Mamba-2's recurrence: one matrix a head, which each token lets fade by a factor of its own."""

    def module(self, layer: Layer) -> nn.Module:
        return StepSize(layer)

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        dt, g = step_size(layer.params, v)
        return self.decayed(q * layer.scale, k, v * dt, S, layer, g)
