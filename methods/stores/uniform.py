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
Kernel = Literal["eager", "compile", "triton"]
#: Tokens of a block that a compiled kernel takes at once.
COMPILED = 1024
_HALF_MAX = torch.finfo(torch.float16).max


def quantize(x: Tensor, bits: int, dim: int, group: int, symmetric: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8, one each, shape of x), scales and zeros (float16, x's shape with `dim` divided by `group`)."""
    at = dim % x.dim() + 1
    groups = x.float().unflatten(at - 1, (-1, group))
    low, high = groups.aminmax(dim=at, keepdim=True)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    zero = low.clamp(-_HALF_MAX, _HALF_MAX).half()
    start = low if symmetric else zero.float()
    # The smallest normal half keeps a constant group exact: its codes are 0, its zero is the value.
    scale = ((high - start) / (2**bits - 1)).clamp_(torch.finfo(torch.float16).tiny, _HALF_MAX).half()
    offset = lower_end(scale, bits) if symmetric else start
    codes = ((groups - offset) / scale.float()).round_().clamp_(0, 2**bits - 1)
    return codes.to(torch.uint8).flatten(at - 1, at), scale.squeeze(at), zero.squeeze(at)


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

    def run(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        heads = x.shape[1]
        x, packed, scale, zero = (y.flatten(0, 1) for y in (x, packed, scale, zero))
        # Small products, one for each group of tokens, are better not made smaller yet.
        codes = [unpack(packed, bits)] if axis == "channel" else lanes(packed, bits)
        return fold(x, codes, scale, zero).unflatten(0, (-1, heads))

    return run


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


# The folded products. Sequences and heads are one dimension N: q [N, g, D] and p [N, g, n] of g query heads of a group,
# and codes [N, n, D / lanes] of each lane (packing.py).


def _product(q: Tensor, codes: Sequence[Tensor]) -> Tensor:
    """q . codes [N, g, n], lane by lane, so that lanes need not be joined."""
    (part, *parts), (lane, *others) = q.chunk(len(codes), 2), codes
    x = torch.bmm(part, lane.float().mT)
    for part, lane in zip(parts, others, strict=True):
        x = torch.baddbmm(x, part, lane.float().mT)
    return x


def _mixture(p: Tensor, codes: Sequence[Tensor]) -> Tensor:
    """p codes [N, g, D], lane by lane."""
    mixed = [torch.bmm(p, lane.float()) for lane in codes]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2)


def _grouped(codes: Sequence[Tensor], groups: int) -> list[Tensor]:
    """Each group of tokens apart: [N n/G, G, D / lanes]."""
    return [lane.unflatten(1, (groups, -1)).flatten(0, 1) for lane in codes]


def scores_by_channel(q: Tensor, codes: Sequence[Tensor], scale: Tensor, zero: Tensor) -> Tensor:
    """Scales and zeros [N, n/G, D] go into the query, one query for each group of tokens."""
    groups = scale.shape[1]
    scaled = (q.unsqueeze(1) * scale.unsqueeze(2)).flatten(0, 1)  # [N n/G, g, D]
    x = _product(scaled, _grouped(codes, groups)).unflatten(0, (-1, groups))
    return (x + torch.bmm(zero, q.mT).unsqueeze(3)).transpose(1, 2).flatten(2)


def mix_by_channel(p: Tensor, codes: Sequence[Tensor], scale: Tensor, zero: Tensor) -> Tensor:
    """Groups of tokens are summed apart, and the sums scaled."""
    groups = scale.shape[1]
    grouped = p.unflatten(2, (groups, -1)).transpose(1, 2)  # [N, n/G, g, G]
    sums = _mixture(grouped.flatten(0, 1), _grouped(codes, groups)).unflatten(0, (-1, groups))
    return torch.baddbmm((sums * scale.unsqueeze(2)).sum(1), grouped.sum(3).mT, zero)


def scores_by_token(q: Tensor, codes: Sequence[Tensor], scale: Tensor, zero: Tensor) -> Tensor:
    """Groups of channels are multiplied apart, and the products scaled by [N, n, D/G]."""
    groups = scale.shape[2]
    if groups == 1:
        return torch.baddbmm(_product(q, codes) * scale.mT, q.sum(2, keepdim=True), zero.mT)
    parts = q.unflatten(2, (groups, -1))
    apart = parts.unsqueeze(3) * torch.eye(groups, device=q.device).unsqueeze(2)  # [N, g, D/G, D/G, G]
    x = _product(apart.flatten(3).flatten(1, 2), codes).unflatten(1, (-1, groups))  # [N, g, D/G, n]
    return torch.baddbmm((x * scale.mT.unsqueeze(1)).sum(2), parts.sum(3), zero.mT)


def mix_by_token(p: Tensor, codes: Sequence[Tensor], scale: Tensor, zero: Tensor) -> Tensor:
    """Scales go into the weights, one set of weights for each group of channels."""
    groups = scale.shape[2]
    if groups == 1:
        return _mixture(p * scale.mT, codes) + torch.bmm(p, zero)
    weights = (p.unsqueeze(2) * scale.mT.unsqueeze(1)).flatten(1, 2)  # [N, g D/G, n]
    sums = _mixture(weights, codes).unflatten(2, (groups, -1)).unflatten(1, (-1, groups))
    return (sums.diagonal(dim1=2, dim2=3) + torch.bmm(p, zero).unsqueeze(2)).mT.flatten(2)
