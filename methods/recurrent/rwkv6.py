"""RWKV-6, Finch (Peng et al. 2024, arXiv:2404.05892, section 4.2): every channel of the key forgets at a rate that each
token sets, and a token's own value is read with a weight u of its own, not from the matrix:

    o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t,   S_t = diag(w_t) S_{t-1} + k_t v_t^T
    w_t = exp(-exp(d_t)),   d_t = lambda + tanh(v_t A) B

with the layer's query for the receptance r. The paper's d reads the hidden state, mixed with the token's before (token
shift); that shift, the output gate and the norm are left out. Without learned parts u is 1, and the channels' lambda
fall evenly from -1 to -6, where the authors' initialisation has them: memories of 3 to 400 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.decay import decayed
from kvfrontier.methods.recurrent.gates import PerHead
from kvfrontier.methods.recurrent.matrix import OneMatrix
from kvfrontier.methods.registry import register


def rates(d: int) -> Tensor:
    """lambda [d] before training."""
    return torch.linspace(-1, -6, d)


class Finch(nn.Module):
    """u [Hkv, 1, D], and d_t by a low-rank map of each head."""

    def __init__(self, layer: Layer, rank: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.ones(layer.hkv, 1, layer.d))
        self.down, self.up = PerHead(layer.hkv, layer.dv, rank, bias=False), PerHead(layer.hkv, rank, layer.d)
        self.up.bias = nn.Parameter(rates(layer.d).repeat(layer.hkv, 1, 1))

    def forward(self, v: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(v)))


@register(
    "rwkv6",
    family="recurrent",
    paper="Peng et al. 2024, arXiv:2404.05892, section 4.2",
    cost="Hkv d^2 in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class RWKV6(OneMatrix):
    """RWKV-6: one matrix a head, each channel of which forgets as the token says; the newest token is read beside it.

    rank of the map that sets the rates.
    """

    rank: int = 64

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} lets no rate depend on the token; set method.rank to at least 1")

    def module(self, layer: Layer) -> Finch:
        return Finch(layer, self.rank)

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        finch = cast("Finch | None", layer.params)
        d = rates(k.shape[3]).to(k.device) if finch is None else finch(v)
        g, u = -d.exp().expand_as(k), 1.0 if finch is None else finch.u.to(k.dtype)
        q = q * layer.scale
        # A query reads what was written before its own token: all of it, moved by one.
        k_before, v_before, g_before = (F.pad(x[:, :, :-1], (0, 0, 1, 0)) for x in (k, v, g))
        before, S = decayed(q, k_before, v_before, S, g_before)
        own = (q * (u * k).unsqueeze(2)).sum(-1, keepdim=True) * v.unsqueeze(2)
        return before + own, g[:, :, -1:].exp().mT * S + k[:, :, -1:].mT * v[:, :, -1:]
