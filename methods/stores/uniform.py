"""Uniform quantization: equal steps between the ends of a group's range.

    code = round((x - zero) / scale),  zero = min of the group,  scale = (max - min) / (2^bits - 1)

A group is `group` tokens of one channel (axis "channel") or `group` channels of one token (axis "token"). Scales and
zeros are fp16, and the codes are computed with the rounded ones. A symmetric range is -max|x| to max|x|, whose lower
end follows from the scale: no zero is stored.

Attention over packed tokens needs no decoded key or value: q . x = (q scale) . code + q . zero, and scales of tokens
are folded into the weights of the sum over values in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvfrontier.methods.stores.packing import Codec, Column, lanes, lanes_of, pack, unpack

Axis = Literal["channel", "token"]
Kernel = Literal["eager", "compile"]
#: Tokens of a block that a compiled kernel takes at once.
COMPILED = 1024
_HALF_MAX = torch.finfo(torch.float16).max


def quantize(x: Tensor, bits: int, dim: int, group: int, symmetric: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8, one each, shape of x), scales and zeros (float16, x's shape with `dim` divided by `group`)."""
    groups = x.float().unflatten(dim, (-1, group))
    at = dim % x.dim() + 1
    low, high = groups.amin(at), groups.amax(at)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    zero = low.clamp(-_HALF_MAX, _HALF_MAX).half()
    # The smallest normal half keeps a constant group exact: its codes are 0, its zero is the value.
    scale = (
        ((high - (low if symmetric else zero.float())) / (2**bits - 1))
        .clamp(torch.finfo(torch.float16).tiny, _HALF_MAX)
        .half()
    )
    offset = lower_end(scale, bits) if symmetric else zero.float()
    codes = (groups - offset.unsqueeze(at)) / scale.float().unsqueeze(at)
    return codes.round().clamp(0, 2**bits - 1).to(torch.uint8).flatten(at - 1, at), scale, zero


def lower_end(scale: Tensor, bits: int) -> Tensor:
    """The zero of a symmetric range, in float32."""
    return scale.float() * -((2**bits - 1) / 2)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor, dim: int, group: int, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to half a scale."""
    at = dim % codes.dim() + 1
    x = codes.unflatten(dim, (-1, group)).to(torch.float32)
    return (x * scale.float().unsqueeze(at) + zero.float().unsqueeze(at)).flatten(at - 1, at).to(dtype)


@dataclass(frozen=True)
class Uniform(Codec):
    """Columns: codes, scales, and zeros unless symmetric."""

    bits: int
    axis: Axis
    group: int
    symmetric: bool = False
    kernel: Kernel = "eager"

    @property
    def grain(self) -> int:
        return self.group if self.axis == "channel" else 1

    @property
    def _dim(self) -> int:
        return 2 if self.axis == "channel" else 3

    def columns(self, d: int) -> tuple[Column, ...]:
        width, every = (d, self.group) if self.axis == "channel" else (d // self.group, 1)
        scales = Column(width, torch.float16, every)
        codes = Column(d * self.bits // 8, torch.uint8)
        return (codes, scales) if self.symmetric else (codes, scales, scales)

    def validate(self, d: int, what: str) -> None:
        if d % lanes_of(self.bits):
            raise ValueError(
                f"{what} {d} is no multiple of {lanes_of(self.bits)}, the codes that {self.bits} bits pack"
            )
        if self.axis == "token" and d % self.group:
            fitting = ", ".join(str(g) for g in (16, 32, 64, 128) if d % g == 0)
            raise ValueError(
                f"group size {self.group} does not divide {what} {d}; set method.group to one of {fitting or d}"
            )

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        codes, *scales = quantize(x, self.bits, self._dim, self.group, self.symmetric)
        return [pack(codes, self.bits), *(scales[:1] if self.symmetric else scales)]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        codes, scale, zero = self._parts(columns)
        return dequantize(unpack(codes, self.bits), scale, zero, self._dim, self.group, torch.float32)

    def _parts(self, columns: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Packed codes, and scales and zeros in float32."""
        scale = columns[1].float()
        return columns[0], scale, lower_end(scale, self.bits) if self.symmetric else columns[2].float()

    def scores(self, q: Tensor, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        return _kernel("scores", self.axis, self.kernel, self.bits)(q, *self._parts(columns))

    def mix(self, p: Tensor, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        return _kernel("mix", self.axis, self.kernel, self.bits)(p, *self._parts(columns))


@functools.cache
def _kernel(what: Literal["scores", "mix"], axis: Axis, kernel: Kernel, bits: int) -> Callable[..., Tensor]:
    if kernel == "compile":
        return _compiled(what, axis, bits)
    fold = {
        ("scores", "channel"): scores_by_channel,
        ("mix", "channel"): mix_by_channel,
        ("scores", "token"): scores_by_token,
        ("mix", "token"): mix_by_token,
    }[what, axis]
    return lambda x, packed, scale, zero: fold(x, unpack(packed, bits), scale, zero)


def _compiled(what: Literal["scores", "mix"], axis: Axis, bits: int) -> Callable[..., Tensor]:
    """Blocks of one size by a compiled kernel, since for sizes that vary a compiler's loops are slow, and what is left
    by folding. A size that cannot be compiled is an error (fullgraph)."""
    kernel = torch.compile(functools.partial(fused, what, axis, bits), dynamic=False, fullgraph=True)
    folded = _kernel(what, axis, "eager", bits)

    def run(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        n, groups, parts = packed.shape[2], scale.shape[2], []
        step = COMPILED if axis == "token" else max(1, COMPILED * groups // n) * (n // groups)
        for a in range(0, n, step):
            b = min(n, a + step)
            rows = slice(a * groups // n, b * groups // n)
            block = (x if what == "scores" else x[..., a:b], packed[:, :, a:b], scale[:, :, rows], zero[:, :, rows])
            parts.append(kernel(*(y.contiguous() for y in block)) if b - a == step else folded(*block))
        return torch.cat(parts, 3) if what == "scores" else torch.stack(parts).sum(0)

    return run


def fused(what: str, axis: Axis, bits: int, x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The same for a compiler, which joins unpacking, scaling, product and sum in one loop, so that there is nothing to
    fold: each lane is decoded where it is used."""
    cut = lanes(packed, bits)
    n, width = packed.shape[2], cut[0].shape[3]

    def spread(y: Tensor) -> tuple[Tensor, ...]:
        """Scales or zeros for every code, lane by lane."""
        repeats = n // y.shape[2] if axis == "channel" else width * len(cut) // y.shape[3]
        at = 3 if axis == "channel" else 4
        shape = [*y.shape[:at], *y.shape[at:]]
        shape.insert(at, repeats)
        return y.unsqueeze(at).expand(shape).flatten(at - 1, at).chunk(len(cut), 3)

    decoded = [lane.float() * s + z for lane, s, z in zip(cut, spread(scale), spread(zero), strict=True)]
    if what == "mix":
        return torch.cat([(x.unsqueeze(4) * y.unsqueeze(2)).sum(3) for y in decoded], -1)
    parts = zip(x.unsqueeze(3).chunk(len(cut), 4), decoded, strict=True)
    return torch.stack([(one * y.unsqueeze(2)).sum(4) for one, y in parts]).sum(0)


# The folded products. q [B, Hkv, g, D], p [B, Hkv, g, n] and codes [B, Hkv, n, D], one each; g query heads of a group.


def scores_by_channel(q: Tensor, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Scales and zeros [B, Hkv, n/G, D] go into the query, one query for each group of tokens."""
    groups = scale.shape[2]
    x = (q.unsqueeze(2) * scale.unsqueeze(3)) @ codes.float().unflatten(2, (groups, -1)).mT  # [B, Hkv, n/G, g, G]
    return (x + (zero @ q.mT).unsqueeze(-1)).transpose(2, 3).flatten(3)


def mix_by_channel(p: Tensor, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Groups of tokens are summed apart, and the sums scaled."""
    groups = scale.shape[2]
    grouped = p.unflatten(3, (groups, -1)).transpose(2, 3)  # [B, Hkv, n/G, g, G]
    sums = grouped @ codes.float().unflatten(2, (groups, -1))
    return (sums * scale.unsqueeze(3)).sum(2) + grouped.sum(-1).mT @ zero


def scores_by_token(q: Tensor, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Groups of channels are multiplied apart, and the products scaled by [B, Hkv, n, D/G]."""
    groups = scale.shape[3]
    parts = q.unflatten(3, (groups, -1))
    apart = parts.unsqueeze(3) * torch.eye(groups, device=q.device).unsqueeze(-1)  # [B, Hkv, g, D/G, D/G, G]
    x = (apart.flatten(4).flatten(2, 3) @ codes.float().mT).unflatten(2, (-1, groups))  # [B, Hkv, g, D/G, n]
    return (x * scale.mT.unsqueeze(2)).sum(3) + parts.sum(-1) @ zero.mT


def mix_by_token(p: Tensor, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Scales go into the weights, one set of weights for each group of channels."""
    groups = scale.shape[3]
    weights = (p.unsqueeze(3) * scale.mT.unsqueeze(2)).flatten(2, 3)  # [B, Hkv, g D/G, n]
    sums = (weights @ codes.float()).unflatten(3, (groups, -1)).unflatten(2, (-1, groups))
    return (sums.diagonal(dim1=3, dim2=4) + (p @ zero).unsqueeze(3)).mT.flatten(3)
