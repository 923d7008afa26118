"""KVQuant (Hooper et al. 2024, arXiv:2401.18079): keys before RoPE rounded per channel, values per token, both to
levels that are not equally far apart, with the largest one in a hundred kept aside in fp16.

    y = (x - offset) / scale,   code = the nearest of 2^bits levels in [-1, 1],   outliers as (index, value) pairs

For keys offset and scale belong to a channel and are learnt of the prompt when it ends, for values to a token. Levels
are k-means of the prompt's normalised numbers, for one layer's keys or values; the paper weights them by a gradient on
calibration texts, and takes outliers by thresholds from these. Here their number is fixed: of keys the furthest out in
each block of `block` tokens, of values in each token of a head. The first token stays in full, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.kept_unrotated import KeptUnrotated
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import Codec, Column, check_bits, lanes_of, pack, unpack

BITS = (2, 3, 4)
#: Numbers of a prompt, at equal distances, on which levels are fitted, and steps of k-means.
SAMPLE, STEPS = 1 << 16, 20
_HALF = torch.finfo(torch.float16)


def half(x: Tensor, least: float = -_HALF.max) -> Tensor:
    """Rounded to fp16, and clamped to its range."""
    return x.clamp(least, _HALF.max).half()


def k_means(x: Tensor, bits: int) -> Tensor:
    """2^bits levels [B, 2^bits], ascending, of least squared error for the numbers [B, n]; from quantiles.

    The number next to a cut belongs to both sides, by how far the cut is from its neighbours: the levels then depend
    continuously on the numbers, and rounding in another order does not move them.
    """
    x = x[:, :: -(-x.shape[1] // SAMPLE)].double().sort(1).values.contiguous()
    n, count = x.shape[1], 2**bits
    levels = x[:, (torch.arange(count, device=x.device) * 2 + 1) * n // (2 * count)]
    below = torch.nn.functional.pad(x.cumsum(1), (1, 0))
    for _ in range(STEPS):
        cuts = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        right = torch.searchsorted(x, cuts).clamp(1, n - 1) if n > 1 else torch.zeros_like(cuts).long()
        left = (right - 1).clamp(min=0)
        a, b = x.gather(1, left), x.gather(1, right)
        share = ((cuts - a) / (b - a).clamp(min=1e-30)).clamp(0, 1)
        ranks = torch.nn.functional.pad(left + share, (1, 0))
        sums = torch.nn.functional.pad(below.gather(1, left) + share * a, (1, 0))
        ranks, sums = (torch.cat([y, end], 1) for y, end in ((ranks, below[:, -1:] * 0 + n), (sums, below[:, -1:])))
        members = ranks.diff(dim=1)
        levels = torch.where(members > 0.5, sums.diff(dim=1) / members.clamp(min=0.5), levels)
    return levels.sort(1).values


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


@component("store", "kvquant")
@dataclass(frozen=True)
class KVQuantStore(PackedStore):
    """bits 2, 3 or 4; outliers: the share that is kept aside; block: tokens whose keys' outliers are chosen together.
    It wants method.positions=kept_unrotated, the keys before RoPE."""

    sinks: int = 1
    bits: int = 3
    outliers: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        check_bits(self.bits, BITS)
        if not 0 <= self.outliers <= 0.5:
            raise ValueError(f"outliers {self.outliers} is a share; set method.outliers between 0 and 0.5")
        if self.block < 1:
            raise ValueError(f"block {self.block} must be at least 1 token")
        super().__post_init__()

    @property
    def codecs(self) -> tuple[NonUniformKeys, NonUniformValues]:
        return NonUniformKeys(self.bits, self.outliers, self.block), NonUniformValues(self.bits, self.outliers)


@register(
    "kvquant",
    family="store",
    paper="Hooper et al. 2024, arXiv:2401.18079, section 3",
    label=lambda p: f"kvquant{p['bits']}",
    cost="per head: K p(b/8 d + 4 o d) + (T-p) d e + 12 d, p = T - T mod R; V (T-R)(b/8 d + 4 + 3 ceil(o d)) + R d e; "
    "o the outliers' share; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def KVQuant(bits: int = 3, outliers: float = 0.01, block: int = 128, residual: int = 128, sinks: int = 1) -> Cached:
    """Quantized cache: keys before RoPE per channel, values per token, at fitted levels, outliers aside (KVQuant).

    bits 2, 3 or 4; `outliers` is a share; of `block` tokens those of keys are chosen together; `residual` newest and
    `sinks` first tokens stay in full.
    """
    return Cached(store=KVQuantStore(residual, sinks, bits, outliers, block), positions=KeptUnrotated())
