"""A learned gate of each head between what softmax gave and what a memory gave (Wu et al. 2022, arXiv:2203.08913,
section 3.2; Munkhdalai et al. 2024, arXiv:2404.07143, equation 10):

    out = sigmoid(beta) memory + (1 - sigmoid(beta)) local
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from kvfrontier.methods.attend import Part
from kvfrontier.methods.layer import Layer


class Gate(nn.Module):
    """beta [Hq], from the same value in every head."""

    def __init__(self, layer: Layer, beta: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((layer.hq,), float(beta)))


def gated(local: Part, memory: Tensor, there: Tensor, layer: Layer, beta: float) -> Part:
    """The output of softmax mixed with `memory` [B, Hq, T, Dv], where there is one (`there` [B, Hq, T]). The gate is
    the layer's own, `layer.params`, or without learned parts `beta` in every head."""
    gate = cast("Gate | None", layer.params)
    logit = memory.new_tensor(beta) if gate is None else gate.beta.view(-1, 1)
    share = (logit.float().sigmoid() * there).unsqueeze(-1)
    return (share * memory + (1 - share) * local[0]).to(local[0].dtype), local[1]
