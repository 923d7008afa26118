"""The matrix that linear attention and compressive memories keep instead of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import State


def feature(x: Tensor) -> Tensor:
    """elu(x) + 1 in float32 (Katharopoulos et al. 2020, equation 7)."""
    return F.elu(x.float()) + 1


@dataclass
class Matrix(State):
    """M [B, Hkv, D, Dv] and z [B, Hkv, D] in float32; n tokens absorbed."""

    M: Tensor
    z: Tensor
    n: int = 0

    @classmethod
    def zeros(cls, layer: Layer, batch: int, d: int) -> Matrix:
        return cls(
            torch.zeros(batch, layer.hkv, d, layer.dv, device=layer.device),
            torch.zeros(batch, layer.hkv, d, device=layer.device),
        )

    @staticmethod
    def footprint(layer: Layer, batch: int, d: int) -> Footprint:
        one = layer.hkv * d * (layer.dv + 1) * torch.float32.itemsize
        return Footprint.of(batch * one, read=one)
