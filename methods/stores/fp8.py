"""Keys and values as 8-bit floating-point numbers (Micikevicius et al. 2022, arXiv:2209.05433): e4m3 has 3 bits of
mantissa and reaches 448, e5m2 has 2 and reaches 57,344.

    code = fp8(x / scale),  scale = max|x| over a head's channels of one token / the largest number

With a scale a token's relative precision does not depend on its size; without one, larger numbers are clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import Codec, Column

Format = Literal["e4m3", "e5m2"]
_DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Fp8(Codec):
    """Columns: codes, viewed as bytes since few operators take fp8, and scales where there are any."""

    format: Format
    scaled: bool

    def columns(self, d: int) -> tuple[Column, ...]:
        codes = Column(d, torch.uint8)
        return (codes, Column(1, torch.float16)) if self.scaled else (codes,)

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        dtype = _DTYPES[self.format]
        largest, half = torch.finfo(dtype).max, torch.finfo(torch.float16)
        x, scales = x.float(), []
        if self.scaled:
            scale = (x.abs().amax(-1, keepdim=True) / largest).clamp(half.tiny, half.max).half()
            x, scales = x / scale.float(), [scale]
        return [x.clamp(-largest, largest).to(dtype).view(torch.uint8), *scales]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        x = columns[0].contiguous().view(_DTYPES[self.format]).float()
        return x * columns[1].float() if self.scaled else x


@component("store", "fp8")
@dataclass(frozen=True)
class Fp8Store(PackedStore):
    """8-bit floating-point keys and values.

    format: e4m3 or e5m2; scaled: a scale for each token and head.
    """

    residual: int = 0
    format: Format = "e4m3"
    scaled: bool = True

    @property
    def codecs(self) -> tuple[Fp8, Fp8]:
        return Fp8(self.format, self.scaled), Fp8(self.format, self.scaled)


@register(
    "fp8",
    family="store",
    paper="Micikevicius et al. 2022, arXiv:2209.05433 (the formats)",
    label=lambda p: p["format"] if p["scaled"] else f"{p['format']} unscaled",
    cost="Hkv T (2 d + 4) bytes, without scales 2 Hkv d T; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def FP8(format: Format = "e4m3", scaled: bool = True, residual: int = 0) -> Cached:
    """Cache of 8-bit floating-point numbers, e4m3 or e5m2.

    scaled: a scale for each token and head; `residual` newest tokens stay in full.
    """
    return Cached(store=Fp8Store(residual, format=format, scaled=scaled))
