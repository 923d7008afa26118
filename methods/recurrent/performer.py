"""Performer (Choromanski et al. 2020, arXiv:2009.14794): random features that are positive, and whose products are
softmax's weights in the mean (FAVOR+, lemma 1 and section 2.4). With x and y a query and a key times d^(-1/4),

    phi(x)_j = exp(w_j x - |x|^2 / 2) / sqrt(m),   E[phi(x) phi(y)] = exp(x y),   w_j orthogonal, each w_j ~ N(0, I)

    S_t = S_{t-1} + phi(k_t) (v_t, 1)^T,   o_t = phi(q_t)^T S_t, divided by its last entry

A sum of exponentials overflows or vanishes. Each row of S is therefore held divided by exp(c_j), c_j the largest
exponent of feature j among the keys so far; where c_j grows, the row decays by as much, and the recurrence is GLA's.
That is exact: no constant is added to the features, as the official code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.decay import normalised
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import State


def orthogonal(features: int, d: int, seed: int) -> Tensor:
    """w [features, d]: every row normal with unit variance, rows orthogonal within each block of d."""
    g = torch.Generator().manual_seed(seed)
    blocks = -(-features // d)
    Q, R = torch.linalg.qr(torch.randn(blocks, d, d, generator=g))
    # The signs of R's diagonal make the rotation uniform, without which a row would not be normal.
    rows = (Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT.flatten(0, 1)[:features]
    return rows * torch.randn(features, d, generator=g).norm(dim=1, keepdim=True)


@dataclass
class Features(State):
    """S [B, Hkv, m, Dv + 1], c [B, Hkv, m] and w [m, D], in float32."""

    FROZEN: ClassVar[tuple[str, ...]] = ("w",)

    S: Tensor
    c: Tensor
    w: Tensor


@register(
    "performer",
    family="recurrent",
    paper="Choromanski et al. 2020, arXiv:2009.14794, section 2.4",
    cost="Hkv m (d + 2) + m d in fp32, whatever T",
    tags=("fixed", "internal", "lossy", "per head"),
)
@dataclass(frozen=True)
class Performer(Method):
    """Softmax attention by positive orthogonal random features.

    features: m, how many; the error falls with its root. seed of the projection w, which all heads share, is held in
    the state and counted.
    """

    features: int = 256
    seed: int = 0

    bounded: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features {self.features} leave no weight; set method.features to at least 1")

    def init_state(self, layer: Layer, batch: int) -> Features:
        shape = (batch, layer.hkv, self.features)
        return Features(
            torch.zeros(*shape, layer.dv + 1, device=layer.device),
            torch.full(shape, torch.finfo(torch.float32).min, device=layer.device),
            orthogonal(self.features, layer.d, self.seed).to(layer.device),
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        x, y = (z.float() * layer.scale**0.5 for z in (q.unflatten(1, (layer.hkv, -1)), k))
        exponents = y @ state.w.T - y.square().sum(-1, keepdim=True) / 2
        # The largest so far, before the first token of the call and after each. It cancels, and so does its gradient.
        c = torch.cat([state.c.unsqueeze(2), exponents.detach()], 2).cummax(2).values
        scores = x @ state.w.T + c[:, :, None, 1:]
        out, S = normalised(
            (scores - scores.detach().amax(-1, keepdim=True)).exp(),
            (exponents - c[:, :, 1:]).exp(), v.float(), state.S, c[:, :, :-1] - c[:, :, 1:],
        )  # fmt: skip
        if step.phase != "score":
            state.S, state.c = S, c[:, :, -1].clone()
        return out.flatten(1, 2).to(q.dtype)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        size = torch.float32.itemsize
        one, w = layer.hkv * self.features * (layer.dv + 2) * size, self.features * layer.d * size
        return Footprint.of(batch * one + w, read=one + w)
