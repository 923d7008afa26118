"""Infini-attention (Munkhdalai et al. 2024, arXiv:2404.07143): local attention inside a segment, and a compressive
matrix for all segments before it. Equations 4 to 10, with s(x) = elu(x) + 1:

    read    A_mem = s(Q) M / (s(Q) z)
    update  M += s(K)^T V,  z += sum s(k)           (after the segment)
    mix     A = sigmoid(beta) A_mem + (1 - sigmoid(beta)) A_local

The memory has no positions: keys and queries reach it before RoPE. While it is empty, the output is the local one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory, Selection, When
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.recurrent.matrix import Matrix, feature
from kvfrontier.methods.registry import register


@dataclass(frozen=True)
class SegmentSelection(Selection):
    """The tokens of the current segment; all leave when it is full."""

    segment: int

    when: ClassVar[When] = "order"
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.segment < 1:
            raise ValueError(f"segment {self.segment} holds no token; set method.segment to at least 1")

    @property
    def local(self) -> bool:
        return True

    def room(self, n: int) -> int:
        return self.segment - n % self.segment

    def left(self, S: int, T: int) -> tuple[int, int]:
        return 0, S + T if self.segment == S + T else 0

    def slots(self, prompt: int, new: int, sealed: bool, layer: Layer) -> int:
        return (prompt + new) % self.segment

    def lossless(self, n: int) -> SegmentSelection:
        return replace(self, segment=n + 1)


@dataclass(frozen=True)
class InfiniMemory(Memory):
    """`gate` is beta, the same in every head unless the trained track learns it."""

    gate: float = 0.0

    join: ClassVar[Literal["softmax", "gate"] | None] = "gate"
    wants_unrotated: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def init(self, layer: Layer, batch: int) -> Matrix:
        return Matrix.zeros(layer, batch, layer.d)

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        f = feature(k)
        state.M = state.M + f.transpose(2, 3) @ v.float()
        state.z = state.z + f.sum(2)
        state.n += k.shape[2]

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        if state.n == 0:
            return None
        f = feature(q).unflatten(1, (layer.hkv, -1))
        read = torch.einsum("bhgtd,bhde->bhgte", f, state.M)
        mass = torch.einsum("bhgtd,bhd->bhgt", f, state.z)
        return (read / mass.unsqueeze(-1)).flatten(1, 2).to(q.dtype), mass.flatten(1, 2)

    def mix(self, part: Part, memory: Part, layer: Layer) -> Part:
        share = 1 / (1 + math.exp(-self.gate))
        return (share * memory[0] + (1 - share) * part[0]).to(part[0].dtype), part[1]

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        return Matrix.footprint(layer, batch, layer.d)


@register(
    "infini",
    family="memory",
    paper="Munkhdalai et al. 2024, arXiv:2404.07143, equations 4-10",
    cost="2 Hkv d (T mod segment) elements, and Hkv (d^2 + d) in fp32",
    tags=("fixed", "internal", "lossy", "per head"),
)
def Infini(segment: int = 256, gate: float = 0.0) -> Cached:
    """Infini-attention: local attention in a segment, and a compressive matrix of what came before.

    segment in tokens; gate: the logit beta that mixes memory and local attention (0: half and half).
    """
    return Cached(SegmentSelection(segment), memory=InfiniMemory(gate), positions=InCachePositions())
