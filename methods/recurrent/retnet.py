"""Retention (Sun et al. 2023, arXiv:2307.08621): linear attention whose past fades at a constant rate, another for
each head h = 0, 1, ...

    S_t = gamma_h S_{t-1} + k_t v_t^T,   o_t = q_t^T S_t,   gamma_h = 1 - 2^(-5-h)          (sections 2.1 and 2.2)

There is no normaliser. The model's own rotation of queries and keys stands for the paper's xPos; group norm and the
swish gate behind the heads are left out. Heads are key/value heads, since the decay is the state's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.matrix import ByKernel
from kvfrontier.methods.registry import register


@register(
    "retnet",
    family="recurrent",
    paper="Sun et al. 2023, arXiv:2307.08621, section 2",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class RetNet(ByKernel):
    """Retention: one matrix a head, which fades at the head's own constant rate."""

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        h = torch.arange(layer.hkv, device=k.device, dtype=k.dtype)
        g = torch.log1p(-torch.exp2(-5 - h))[None, :, None, None].expand(-1, -1, k.shape[2], -1)
        return self.decayed(q * layer.scale, k, v, S, layer, g)
