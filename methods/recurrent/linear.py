"""Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236): softmax becomes a product of features, and the past
a matrix. With phi(x) = elu(x) + 1 (equation 7), for each head:

    S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t)          (equations 18, 19)
    o_t = phi(q_t)^T S_t / (phi(q_t)^T z_t)                             (equation 20)

Chunks of `BLOCK` tokens are computed in parallel, the state carries what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.matrix import Matrix, feature
from kvfrontier.methods.registry import register

BLOCK = 128


@register(
    "linear",
    family="recurrent",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236, equations 18-20",
    cost="Hkv (d^2 + d) in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class Linear(Method):
    """Linear attention with phi = elu + 1: one matrix a head, of constant size."""

    bounded: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def init_state(self, layer: Layer, batch: int) -> Matrix:
        return Matrix.zeros(layer, batch, layer.d)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        S, z = state.M, state.z
        fq, fk, values = feature(q).unflatten(1, (layer.hkv, -1)), feature(k), v.float()
        outputs = []
        for a in range(0, q.shape[2], BLOCK):
            qs, ks, vs = fq[:, :, :, a : a + BLOCK], fk[:, :, a : a + BLOCK], values[:, :, a : a + BLOCK]
            inside = torch.einsum("bhgtd,bhsd->bhgts", qs, ks).tril()
            numerator = torch.einsum("bhgts,bhse->bhgte", inside, vs) + torch.einsum("bhgtd,bhde->bhgte", qs, S)
            mass = inside.sum(-1) + torch.einsum("bhgtd,bhd->bhgt", qs, z)
            outputs.append(numerator / mass.unsqueeze(-1))
            S, z = S + ks.transpose(2, 3) @ vs, z + ks.sum(2)
        if step.phase != "score":
            state.M, state.z, state.n = S, z, state.n + q.shape[2]
        return torch.cat(outputs, 3).flatten(1, 2).to(q.dtype)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Matrix.footprint(layer, batch, layer.d)
