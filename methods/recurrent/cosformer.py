"""cosFormer (Qin et al. 2022, arXiv:2202.08791): features that are never negative, and weights that fall with distance
as a cosine does, which splits by Ptolemy's theorem into a product of queries' and keys' terms:

    weight(t, s) = relu(q_t) relu(k_s) cos(pi (t - s) / 2M)
                 = relu(q_t) cos(pi t / 2M) relu(k_s) cos(pi s / 2M) + the same with sin      (equations 10 and 11)

divided by their sum. Two matrices a head, one for the cosine and one for the sine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.decay import normalised
from kvfrontier.methods.recurrent.matrix import OneMatrix
from kvfrontier.methods.registry import register


@register(
    "cosformer",
    family="recurrent",
    paper="Qin et al. 2022, arXiv:2202.08791, equations 10 and 11",
    cost="2 Hkv (d^2 + d) in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class CosFormer(OneMatrix):
    """Linear attention with relu features, reweighted by the cosine of the distance: two matrices a head.

    length: M in tokens, the longest text; beyond it a weight would be negative.
    """

    length: int = 4096

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length {self.length} holds no token; set method.length to at least the longest text")

    def reach(self, trained: float) -> float:
        return min(trained, self.length)

    def shape(self, layer: Layer) -> tuple[int, int]:
        return 2 * layer.d, layer.dv + 1

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        n = step.start + k.shape[2]
        if n > self.length:
            raise ValueError(
                f"the text has {n} tokens, and method.length={self.length} reweights no longer one; raise method.length"
            )
        angle = step.pos.float()[:, None, :, None] * (math.pi / 2 / self.length)
        cos, sin = angle.cos(), angle.sin()
        fq, fk = q.relu(), k.relu()
        queries = torch.cat([fq * cos.unsqueeze(2), fq * sin.unsqueeze(2)], -1)
        return normalised(queries, torch.cat([fk * cos, fk * sin], -1), v, S)
