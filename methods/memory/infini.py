"""Infini-attention (Munkhdalai et al. 2024, arXiv:2404.07143): local attention inside a segment, and a compressive
matrix for all segments before it. Equations 4 to 10, with s(x) = elu(x) + 1:

    read    A_mem = s(Q) M / (s(Q) z)
    update  M += s(K)^T V,  z += sum s(k)                                (after the segment; "linear")
            M += s(K)^T (V - s(K) M / (s(K) z)),  z += sum s(k)          ("delta": what is there already is not added)
    mix     A = sigmoid(beta) A_mem + (1 - sigmoid(beta)) A_local        (beta: one a head, learned)

The memory has no positions: keys and queries reach it before RoPE. While it is empty, the output is the local one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory, Selection
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory.gate import Gate, gated
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.recurrent.decay import decayed, divided, weighing
from kvfrontier.methods.recurrent.matrix import Matrix, feature
from kvfrontier.methods.registry import called, component, register
from kvfrontier.methods.selection.block_window import segment as segments

Update = Literal["linear", "delta"]


@component("memory", "infini")
@dataclass(frozen=True)
class InfiniMemory(Memory):
    """What leaves goes into a matrix for each head, joined by a gate. `gate` is beta, or where the trained track's
    begins; `update` adds a value whole (linear), or what the matrix does not hold of it yet (delta)."""

    gate: float = 0.0
    update: Update = "linear"

    join: ClassVar[Literal["softmax", "gate"] | None] = "gate"
    wants_unrotated: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def check(self, selection: Selection) -> None:
        if self.update == "delta" and selection.rolling:
            raise ValueError(
                f"the delta update reads the memory before a whole segment is added, and {called(selection)} lets "
                "single tokens leave; choose method/selection=segment, or method.memory.update=linear"
            )

    def module(self, layer: Layer) -> Gate:
        return Gate(layer, self.gate)

    def init(self, layer: Layer, batch: int) -> Matrix:
        return Matrix.zeros(layer, batch, layer.d)

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        f, v = feature(k), v.float()
        if self.update == "delta" and state.n:
            v = v - divided(f @ torch.cat([state.M, state.z.unsqueeze(-1)], -1))[0]
        state.M = state.M + f.transpose(2, 3) @ v
        state.z = state.z + f.sum(2)
        state.n += k.shape[2]

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        T, n = q.shape[2], k.shape[2]
        if state.n + n == 0:
            return None
        f, S = feature(q).unflatten(1, (layer.hkv, -1)), torch.cat([state.M, state.z.unsqueeze(-1)], -1)
        if n:
            # Query t finds what left before it: the keys, moved behind T - n that weigh nothing.
            keys, values = (F.pad(x, (0, 0, T - n, 0)) for x in (feature(k), weighing(v.float())))
            read, _ = decayed(f, keys, values, S)
        else:
            read = torch.einsum("bhgtd,bhde->bhgte", f, S)
        out, mass = divided(read)
        return out.flatten(1, 2).to(q.dtype), mass.flatten(1, 2)

    def mix(self, part: Part, memory: Part, layer: Layer) -> Part:
        o, mass = memory
        return gated(part, o, mass > 0, layer, self.gate)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        return Matrix.footprint(layer, batch, layer.d)


def _preset(segment: int, gate: float, update: Update) -> Cached:
    return Cached(segments(segment), memory=InfiniMemory(gate, update), positions=InCachePositions())


@register(
    "infini",
    family="memory",
    paper="Munkhdalai et al. 2024, arXiv:2404.07143, equations 4-8 and 10",
    cost="2 Hkv d (T mod segment) elements, and Hkv (d^2 + d) in fp32",
    tags=("fixed", "internal", "lossy", "per head"),
)
def Infini(segment: int = 2048, gate: float = 0.0) -> Cached:
    """Infini-attention: local attention in a segment, and a compressive matrix of what came before.

    segment in tokens (2,048 in the paper: a shorter text never reaches the memory); gate: the logit beta that mixes
    memory and local attention (0: half and half), the same in every head until it is trained.
    """
    return _preset(segment, gate, "linear")


@register(
    "infini_delta",
    family="memory",
    paper="Munkhdalai et al. 2024, arXiv:2404.07143, equations 4-7, 9 and 10",
    cost="2 Hkv d (T mod segment) elements, and Hkv (d^2 + d) in fp32",
    tags=("fixed", "internal", "lossy", "per head"),
)
def InfiniDelta(segment: int = 2048, gate: float = 0.0) -> Cached:
    """Infini-attention whose matrix takes in only what it does not hold yet (the delta rule).

    segment in tokens (2,048 in the paper: a shorter text never reaches the memory); gate: the logit beta that mixes
    memory and local attention (0: half and half), the same in every head until it is trained.
    """
    return _preset(segment, gate, "delta")
