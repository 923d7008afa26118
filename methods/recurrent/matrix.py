"""The matrix that linear attention, its descendants and compressive memories keep instead of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.kernels import linear
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.recurrent import decay, delta
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


@dataclass
class Outer(State):
    """S [B, Hkv, F, V] in float32: a decayed sum of outer products of F features of a key and V of a value."""

    S: Tensor


@dataclass(frozen=True)
class OneMatrix(Method):
    """Base of methods whose past is one matrix a key/value head. A subclass gives `shape` and `read_write`.

    Where a method has no softmax's normaliser, its queries are multiplied by the model's `layer.scale` (d^-1/2), and
    the norm that its paper puts behind the heads is the model's matter, as are convolutions and output gates. So are
    positions: queries and keys come rotated where the model rotates them, which most of these papers do not.
    """

    bounded: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def shape(self, layer: Layer) -> tuple[int, int]:
        """(F, V) of one head's matrix."""
        return layer.d, layer.dv

    def read_write(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
        """Output [B, Hkv, G, T, Dv] and the new S; q [B, Hkv, G, T, D], k and v [B, Hkv, T, D], all in float32."""
        raise NotImplementedError

    def init_state(self, layer: Layer, batch: int) -> Outer:
        return Outer(torch.zeros(batch, layer.hkv, *self.shape(layer), device=layer.device))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        grouped = q.unflatten(1, (layer.hkv, -1)).float()
        out, S = self.read_write(grouped, k.float(), v.float(), state.S, layer, step)
        if step.phase != "score":
            state.S = S
        return out.flatten(1, 2).to(q.dtype)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        rows, columns = self.shape(layer)
        one = layer.hkv * rows * columns * torch.float32.itemsize
        return Footprint.of(batch * one, read=one)


@dataclass(frozen=True)
class ByKernel(OneMatrix):
    """Base of those whose recurrence over many tokens can be computed by a kernel: "eager" in blocks of our own, "fla"
    by flash-linear-attention's, on CUDA (kernels/linear.py)."""

    kernel: Literal["eager", "fla"] = field(default="eager", kw_only=True)

    def __post_init__(self) -> None:
        if self.kernel == "fla":
            kernels.check("linear")

    def decayed(
        self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, layer: Layer, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`decay.decayed` by the kernel."""
        if self.kernel == "eager":
            return decay.decayed(q, k, v, S, g)
        return linear.decayed(q, k, v, S, g, layer.dtype)

    def delta_rule(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, layer: Layer, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`delta.delta_rule` by the kernel."""
        if self.kernel == "eager":
            return delta.delta_rule(q, k, v, beta, S, g)
        return linear.delta_rule(q, k, v, beta, S, g, layer.dtype)
