"""Gates that a token sets itself. A method sees no hidden state: its gates are linear in the token's value, which,
unlike the key, carries no rotation. Without learned parts every logit is a stated constant."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvfrontier.methods.layer import Layer


class PerHead(nn.Module):
    """A linear map of its own for each head: x [B, H, T, D] to [B, H, T, n], in x's dtype whatever its weights have."""

    def __init__(self, heads: int, d: int, n: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, d, n).uniform_(-1, 1) / math.sqrt(d))
        self.bias = nn.Parameter(torch.zeros(heads, 1, n)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class StepSize(nn.Module):
    """Mamba-2's discretisation (Dao & Gu 2024, arXiv:2405.21060): dt = softplus(w v + b), log-decay g = -A dt. As
    there, A begins in [1, 16] and softplus(b), by logarithm, in [0.001, 0.1]."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.logit = PerHead(layer.hkv, layer.dv, 1)
        dt = torch.empty(layer.hkv, 1, 1).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.logit.bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.log_A = nn.Parameter(torch.empty(layer.hkv, 1, 1).uniform_(1, 16).log())

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        dt = F.softplus(self.logit(v))
        return dt, -self.log_A.to(dt.dtype).exp() * dt


def step_size(gate: Any, v: Tensor) -> tuple[Tensor, Tensor]:
    """dt and log-decays [B, Hkv, T, 1] by a `StepSize`. Where it is None A is 1 and dt falls by heads, by logarithm,
    from 0.1 to 0.001: heads that remember ten tokens to heads that remember a thousand."""
    if gate is not None:
        return gate(v)
    dt = torch.logspace(-1, -3, v.shape[1], device=v.device, dtype=v.dtype)[:, None, None]
    dt = dt.expand(*v.shape[:3], 1)
    return dt, -dt


def logits(gate: Any, v: Tensor, n: int) -> Tensor:
    """Logits [B, Hkv, T, n] by a module; zero where it is None."""
    return v.new_zeros(*v.shape[:3], n) if gate is None else gate(v)
