"""Based (Arora et al. 2024, arXiv:2402.18668): a short window of softmax attention, and for all that left it linear
attention with exp's Taylor series. Queries and keys are projected to d' = 16 channels; with x and y these over
d'^(1/4),

    phi(x) = (1, x, x (x) x / sqrt(2)),   phi(x) phi(y) = 1 + x y + (x y)^2 / 2           (section 4.1)

Based's layers are one or the other, by turns. Here both serve each layer and share a normaliser, the window's weight
exp(scale q k) and the series' phi(x) phi(y), and a token is in one of them only: the series takes what leaves the
window. The projection is learned; where there is none it is the first d' cosines of a DCT over a head's channels, a
fixed orthogonal projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent.blocks import in_spans
from kvfrontier.methods.recurrent.decay import decayed, divided, weighing
from kvfrontier.methods.recurrent.gates import PerHead
from kvfrontier.methods.recurrent.matrix import Outer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.window import WindowSelection


def taylor(x: Tensor) -> Tensor:
    """[..., d'] to [..., 1 + d' + d'^2]."""
    x = x / x.shape[-1] ** 0.25
    squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)


def cosines(d: int, n: int, like: Tensor) -> Tensor:
    """The first n columns of the orthonormal DCT-II over d channels, [d, n]."""
    i, j = (torch.arange(m, device=like.device, dtype=like.dtype) for m in (d, n))
    P = torch.cos(math.pi / d * (i[:, None] + 0.5) * j) * math.sqrt(2 / d)
    return torch.where(j == 0, P / math.sqrt(2), P)


@dataclass
class Series(Outer):
    """S [B, Hkv, 1 + d' + d'^2, Dv + 1] in float32, over n tokens."""

    n: int = 0


@component("memory", "taylor")
@dataclass(frozen=True)
class TaylorMemory(Memory):
    """What leaves goes into a matrix a head, read by exp's Taylor series. feature_dim: d', channels projected to."""

    feature_dim: int = 16

    join: ClassVar[Literal["softmax", "gate"] | None] = "softmax"
    as_stored: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.feature_dim < 1:
            raise ValueError(f"feature_dim {self.feature_dim} keeps no channel; set method.feature_dim to at least 1")

    def module(self, layer: Layer) -> nn.Module:
        return nn.ModuleDict(
            {x: PerHead(n, layer.d, self.feature_dim, bias=False) for x, n in (("q", layer.hq), ("k", layer.hkv))}
        )

    def init(self, layer: Layer, batch: int) -> Series:
        rows = 1 + self.feature_dim + self.feature_dim**2
        return Series(torch.zeros(batch, layer.hkv, rows, layer.dv + 1, device=layer.device))

    def project(self, x: Tensor, which: str, layer: Layer) -> Tensor:
        params: Any = layer.params
        return x @ cosines(layer.d, self.feature_dim, x) if params is None else params[which](x)

    def encode(self, k: Tensor, v: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        return self.project(k.float(), "k", layer), weighing(v.float())

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.S = state.S + taylor(k).transpose(2, 3) @ v
        state.n += k.shape[2]

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        if state.n + k.shape[2] == 0:
            return None
        queries = self.project(q.float(), "q", layer).unflatten(1, (layer.hkv, -1))
        # Before each of the last n queries one more token leaves; the queries before them stand beside no key.
        missing = q.shape[2] - k.shape[2]
        keys, values, there = (
            F.pad(x, (0, 0, missing, 0)) for x in (*self.encode(k, v, layer), torch.ones_like(k[:1, :1, :, :1]))
        )

        def span(q: Tensor, k: Tensor, v: Tensor, there: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
            return decayed(taylor(q), taylor(k) * there, v, S)

        out, mass = divided(in_spans(span, (queries, keys, values, there), state.S)[0])
        lse = mass.masked_fill(state.n + counts == 0, 1.0).log().masked_fill(state.n + counts == 0, -math.inf)
        return out.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        rows = 1 + self.feature_dim + self.feature_dim**2
        one = layer.hkv * rows * (layer.dv + 1) * torch.float32.itemsize
        return Footprint.of(batch * one, read=one)


@register(
    "based",
    family="recurrent",
    paper="Arora et al. 2024, arXiv:2402.18668, section 4",
    cost="2 Hkv d min(T, w) elements, and Hkv (1 + d' + d'^2) (d + 1) in fp32",
    tags=("fixed", "internal", "lossy", "per head"),
)
def Based(window: int = 64, feature_dim: int = 16) -> Cached:
    """A window of softmax attention, and linear attention by exp's Taylor series over all that left it.

    window in tokens; feature_dim: channels d' of the projected queries and keys.
    """
    return Cached(WindowSelection(window), memory=TaylorMemory(feature_dim))
