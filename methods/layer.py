"""What a method may know of the attention layer it serves: its shapes, scaling, window, soft-cap and rotation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Rope(Protocol):
    """The model's own rotary embedding, at any position. The bridge supplies it."""

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [B, H, T, D] to positions [B, T] (or [1, T])."""
        ...

    def invert(self, x: Tensor, positions: Tensor) -> Tensor:
        """Undo `apply`, up to rounding."""
        ...

    def rotate(self, x: Tensor, angles: Tensor, factor: float = 1.0) -> Tensor:
        """Rotate x [B, H, T, D] by angles [B, T, R/2] (or [1, T, R/2]) in radians, one for each pair of the R
        dimensions that the model turns, and multiply these by `factor`. `apply` is a rotation by positions times
        frequencies."""
        ...

    @property
    def frequencies(self) -> Tensor:
        """[R/2] float32, radians a token, falling."""
        ...

    @property
    def trained(self) -> int | None:
        """Positions that the model was made for, or None where it does not say."""
        ...


@dataclass(frozen=True)
class Layer:
    """One attention layer.

    index, count   its place among the model's attention layers, and how many there are
    hq, hkv        query heads and key/value heads (hq is a multiple of hkv)
    d, dv          dimension of a query or key head, and of a value head
    scale          factor on the logits
    window         the model's own sliding window in tokens (a query sees `window` keys, its own included), or None
    softcap        logits become softcap * tanh(logits / softcap), or None
    source         index of the layer whose state this one reads, or None
    latent         where the model caches latents (MLA): width of a token's latent and of its shared rotated key, both
                   for all heads together; hkv, d and dv are then those of the expanded keys and values. Else None
    dtype, device  of keys and values
    rope           the model's rotation, or None where it has none
    hidden         width of the model's embeddings, or 0 where it is not known
    params         the method's learnable parts for this layer (trained track), or None
    module         the model's attention module, for methods that read its projections; None when planning
    """

    index: int
    count: int
    hq: int
    hkv: int
    d: int
    dv: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    source: int | None = None
    latent: tuple[int, int] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    rope: Rope | None = None
    hidden: int = 0
    params: nn.Module | None = None
    module: Any = None

    @property
    def group(self) -> int:
        """Query heads for each key/value head."""
        return self.hq // self.hkv

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's key and value over all heads, one sequence."""
        return self.hkv * (self.d + self.dv) * self.dtype.itemsize

    def at(self, dtype: torch.dtype) -> Layer:
        """The same layer in another dtype; footprints at 16 bits are taken so."""
        return replace(self, dtype=dtype)
