"""Gated linear attention (Yang et al. 2023, arXiv:2312.06635): every channel of the key forgets at a rate of its own,
which each token sets:

    S_t = diag(alpha_t) S_{t-1} + k_t v_t^T,   o_t = q_t^T S_t,   alpha_t = sigmoid(W v_t + b)^(1 / tau)

The paper's W has rank 16 and reads the hidden state, tau is 16; its output gate and norm are left out.
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
    "gla",
    family="recurrent",
    paper="Yang et al. 2023, arXiv:2312.06635, section 4",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class GLA(ByKernel):
    """Gated linear attention: one matrix a head, each channel of which forgets as the token says.

    rank of the gates' linear map; tau: the greater, the slower they forget.
    """

    rank: int = 16
    tau: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} lets no gate depend on the token; set method.rank to at least 1")
        if self.tau <= 0:
            raise ValueError(f"tau {self.tau} would let the state grow; set method.tau above 0")

    def module(self, layer: Layer) -> nn.Module:
        return nn.Sequential(PerHead(layer.hkv, layer.dv, self.rank), PerHead(layer.hkv, self.rank, layer.d))

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        g = F.logsigmoid(logits(layer.params, v, layer.d)) / self.tau
        return self.decayed(q * layer.scale, k, v, S, layer, g)
