"""What native sparse attention learns (Yuan et al. 2025, arXiv:2502.11089, equations 5 and 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kvfrontier.methods.layer import Layer


class Pooling(nn.Module):
    """[..., compress, D] -> [..., D]: the mean, plus an MLP of the block with learned positions, zero at first."""

    def __init__(self, length: int, d: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(length, d))
        self.mlp = nn.Sequential(nn.Linear(length * d, d), nn.GELU(), nn.Linear(d, d))
        for parameter in self.mlp[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2) + self.mlp((x + self.position).flatten(-2))


class NsaParameters(nn.Module):
    """How a layer pools its keys and values, and gates the branches of each query head."""

    def __init__(self, layer: Layer, length: int) -> None:
        super().__init__()
        self.keys, self.values = Pooling(length, layer.d), Pooling(length, layer.dv)
        self.gate = nn.Parameter(torch.zeros(layer.hq, 3, layer.d))
        self.bias = nn.Parameter(torch.full((layer.hq, 3), -math.log(2)))  # sigmoid: 1/3

    def gates(self, q: Tensor) -> Tensor:
        """[B, Hq, T, 3]."""
        return torch.sigmoid(torch.einsum("bhtd,hgd->bhtg", q.float(), self.gate) + self.bias[:, None])
