"""Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236): softmax becomes a product of features, and the past
a matrix. With phi(x) = elu(x) + 1 (equation 7), for each head:

    S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t)          (equations 18, 19)
    o_t = phi(q_t)^T S_t / (phi(q_t)^T z_t)                             (equation 20)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.decay import divided, weighing
from kvfrontier.methods.recurrent.matrix import ByKernel, feature
from kvfrontier.methods.registry import register


@register(
    "linear",
    family="recurrent",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236, equations 18-20",
    cost="Hkv (d^2 + d) in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class Linear(ByKernel):
    """Linear attention with phi = elu + 1: one matrix a head, of constant size."""

    def shape(self, layer: Layer) -> tuple[int, int]:
        return layer.d, layer.dv + 1

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        out, S = self.decayed(feature(q), feature(k), weighing(v), S, layer)
        return divided(out)[0], S
