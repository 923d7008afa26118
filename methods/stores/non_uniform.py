"""KVQuant's codecs (Hooper et al. 2024, arXiv:2401.18079, section 3): codes of levels that are not equally far apart,
fitted to the prompt, and outliers kept aside in fp16.

    y = (x - offset) / scale,   code = the nearest of 2^bits levels in [-1, 1],   outliers as (index, value) pairs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.layer import Layer
from kvfrontier.methods.stores.k_means import k_means
from kvfrontier.methods.stores.packing import Codec, Column, lanes_of, pack, unpack

_HALF = torch.finfo(torch.float16)


def half(x: Tensor, least: float = -_HALF.max) -> Tensor:
    """Rounded to fp16, and clamped to its range."""
    return x.clamp(least, _HALF.max).half()


@dataclass(frozen=True)
class NonUniform(Codec):
    """Columns: codes; for values offset and scale; values and indices of outliers."""

    bits: int
    outliers: float

    def validate(self, d: int, what: str) -> None:
        if d % lanes_of(self.bits):
            raise ValueError(
                f"{what} {d} is no multiple of {lanes_of(self.bits)}, which {self.bits} bits pack together"
            )

    def _codes(self, y: Tensor, levels: Tensor) -> Tensor:
        """Packed codes of normalised numbers."""
        cuts = (levels[:, 1:] + levels[:, :-1]).contiguous() / 2
        return pack(torch.searchsorted(cuts, y.flatten(1).contiguous()).view(y.shape).to(torch.uint8), self.bits)

    def _levels(self, codes: Tensor, levels: Tensor) -> Tensor:
        """The inverse of `_codes`."""
        unpacked = unpack(codes, self.bits)
        return levels.gather(1, unpacked.flatten(1).long()).view(unpacked.shape)


@dataclass(frozen=True)
class NonUniformKeys(NonUniform):
    """fitted: levels [B, 2^bits]; offset, scale and standard deviation [B, Hkv, 1, D], in float32: they serve a whole
    text. Outliers are those furthest from the offset in standard deviations."""

    block: int

    @property
    def grain(self) -> int:
        return self.block

    def _kept(self, d: int) -> int:
        return round(self.outliers * self.block * d)

    def columns(self, d: int) -> tuple[Column, ...]:
        codes, kept = Column(d * self.bits // 8, torch.uint8), self._kept(d)
        # An index of up to 2^16 places fits two bytes; it is held as a signed number.
        return codes, Column(kept, torch.float16, self.block), Column(kept, torch.int16, self.block)

    def validate(self, d: int, what: str) -> None:
        super().validate(d, what)
        if self.block * d > 1 << 15:
            raise ValueError(f"a block of {self.block} tokens of {what} {d} has more than {1 << 15} numbers, which "
                             "indices of two bytes reach; lower method.block")  # fmt: skip

    def fit(self, x: Tensor) -> list[Tensor]:
        x = x.float()
        ordered, n = x.sort(2).values, x.shape[2]
        outside = math.floor(self.outliers / 2 * (n - 1))
        low, high = ordered[:, :, outside : outside + 1], ordered[:, :, n - 1 - outside : n - outside]
        offset, scale = (low + high) / 2, ((high - low) / 2).clamp(min=_HALF.tiny)
        y = ((x - offset) / scale).clamp(-1, 1)
        spread = x.std(2, correction=0, keepdim=True).clamp(min=_HALF.tiny)
        return [k_means(y.flatten(1), self.bits).float(), offset, scale, spread]

    def fitted(self, layer: Layer, batch: int, d: int) -> int:
        return batch * (2**self.bits + 3 * layer.hkv * d) * torch.float32.itemsize

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        levels, offset, scale, spread = fitted
        x = x.float()
        y, far = (x - offset) / scale, ((x - offset) / spread).abs()
        blocks, numbers = (z.unflatten(2, (-1, self.block)).flatten(3) for z in (far, x))
        index = blocks.topk(self._kept(x.shape[3]), -1).indices
        return [self._codes(y, levels), half(numbers.gather(3, index)), index.to(torch.int16)]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        codes, kept, index = columns
        levels, offset, scale, _ = fitted
        x = self._levels(codes, levels) * scale + offset
        blocks = x.unflatten(2, (-1, self.block)).flatten(3)
        return blocks.scatter(3, index.long(), kept.float()).view(x.shape)


@dataclass(frozen=True)
class NonUniformValues(NonUniform):
    """fitted: levels [B, 2^bits]."""

    def _kept(self, d: int) -> int:
        return math.ceil(self.outliers * d)

    def columns(self, d: int) -> tuple[Column, ...]:
        one, kept = Column(1, torch.float16), self._kept(d)
        index = torch.uint8 if d <= 256 else torch.int16
        return Column(d * self.bits // 8, torch.uint8), one, one, Column(kept, torch.float16), Column(kept, index)

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Numbers within [-1, 1] but for the outliers, offset and scale, and where the outliers are."""
        x = x.float()
        index = x.abs().topk(self._kept(x.shape[3]), -1).indices
        low = x.scatter(3, index, float("inf")).amin(3, keepdim=True)
        high = x.scatter(3, index, float("-inf")).amax(3, keepdim=True)
        offset, scale = half((low + high) / 2), half((high - low) / 2, _HALF.tiny)
        return (x - offset.float()) / scale.float(), offset, scale, index

    def fit(self, x: Tensor) -> list[Tensor]:
        return [k_means(self._normalised(x)[0].clamp(-1, 1).flatten(1), self.bits).float()]

    def fitted(self, layer: Layer, batch: int, d: int) -> int:
        return batch * 2**self.bits * torch.float32.itemsize

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        y, offset, scale, index = self._normalised(x)
        kept = half(x.float().gather(3, index))
        return [self._codes(y, fitted[0]), offset, scale, kept, index.to(self.columns(x.shape[3])[4].dtype)]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        codes, offset, scale, kept, index = columns
        x = self._levels(codes, fitted[0]) * scale.float() + offset.float()
        return x.scatter(3, index.long(), kept.float())
