"""Small integers in bytes, and the tensors in which a store holds packed tokens.

A row of D codes is cut into lanes of equal width, and a byte holds the codes at one place of several lanes: byte j of
a 4-bit row holds channels j and j + D/2. A lane is so read by a shift and a mask, and lies contiguous; nothing is
interleaved. Three bits do not divide a byte: there 8 lanes share 3 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import buffer_footprint

BITS = (1, 2, 3, 4, 8)


def lanes_of(bits: int) -> int:
    """Codes that share a byte, or three bytes."""
    return math.lcm(8, bits) // bits


def check_bits(bits: int, choices: Sequence[int] = BITS) -> None:
    """Raise ValueError where a width is none of `choices`."""
    if bits not in choices:
        raise ValueError(f"bits {bits} cannot be packed; choose one of {', '.join(map(str, choices))}")


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, one each, [..., D]) to bytes [..., D bits/8]; the first lane in the lowest bits."""
    lanes = codes.chunk(lanes_of(bits), -1)
    if bits != 3:
        packed = lanes[0]
        for i, lane in enumerate(lanes[1:], 1):
            packed = packed | lane << bits * i
        return packed
    word = torch.zeros_like(lanes[0], dtype=torch.int32)
    for i, lane in enumerate(lanes):
        word |= lane.int() << 3 * i
    return torch.cat([(word >> shift & 255).to(torch.uint8) for shift in (0, 8, 16)], -1)


def lanes(packed: Tensor, bits: int) -> list[Tensor]:
    """The lanes of packed rows, each [..., D / lanes_of(bits)]; one lane after the other they are the codes."""
    n = lanes_of(bits)
    if bits == 3:
        low, middle, high = (x.int() for x in packed.chunk(3, -1))
        packed = low | middle << 8 | high << 16
        return [(packed >> 3 * i & 7).to(torch.uint8) for i in range(n)]
    mask, last = 2**bits - 1, n - 1
    shifted = [packed >> bits * i if i else packed for i in range(n)]
    return [x if i == last else x & mask for i, x in enumerate(shifted)]


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    return packed if bits == 8 else torch.cat(lanes(packed, bits), -1)


@dataclass(frozen=True)
class Column:
    """One tensor of packed tokens: `width` entries of `dtype` for every `every` tokens of a head."""

    width: int
    dtype: torch.dtype
    every: int = 1


@dataclass(frozen=True)
class Codec:
    """How the keys or the values [B, Hkv, n, D] of some tokens become columns, and columns tokens again.

    A subclass gives `columns`, `encode` and `decode`; the first column has a row for each token. `scores` and `mix` are
    what attention asks of packed tokens: a codec that can answer without decoding overrides them.
    """

    def columns(self, d: int) -> tuple[Column, ...]:
        """The columns of heads of `d` channels."""
        raise NotImplementedError

    def validate(self, d: int, what: str) -> None:
        """Raise ValueError where heads of `d` channels cannot be packed; `what` names them."""

    @property
    def grain(self) -> int:
        """Tokens that are packed together: a number of tokens is packed in multiples of it."""
        return 1

    def fit(self, x: Tensor) -> list[Tensor]:
        """What is learnt of the prompt when it ends, kept in the state."""
        return []

    def fitted(self, layer: Layer, batch: int, d: int) -> int:
        """Bytes of what `fit` gives."""
        return 0

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        """Each column's rows for tokens [B, Hkv, n, D]."""
        raise NotImplementedError

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        """The tokens [B, Hkv, n, D] of rows, in float32."""
        raise NotImplementedError

    def scores(self, q: Tensor, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        """Products [B, Hkv, G, n] of queries [B, Hkv, G, D] with packed keys."""
        return q @ self.decode(columns, fitted).mT

    def mix(self, p: Tensor, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        """Packed values summed with weights [B, Hkv, G, n]: [B, Hkv, G, D]."""
        return p @ self.decode(columns, fitted)

    def nominal(self, d: int) -> int:
        """Bits of a token's codes."""
        return self.columns(d)[0].width * self.columns(d)[0].dtype.itemsize * 8


@dataclass
class Packed(State):
    """columns: a `Buf` [B, Hkv, n / every, width] for each `Column`; fitted: what the codec learnt of the prompt."""

    columns: list[Buf]
    fitted: list[Tensor]

    @classmethod
    def empty(cls, codec: Codec, layer: Layer, batch: int, d: int, exact: bool) -> Packed:
        def empty(column: Column) -> Buf:
            shape = (batch, layer.hkv, 0, column.width)
            return Buf.empty(*shape, exact=exact, dtype=column.dtype, device=layer.device)

        return cls([empty(column) for column in codec.columns(d)], [])

    @property
    def n(self) -> int:
        return self.columns[0].n

    def append(self, codec: Codec, x: Tensor) -> None:
        for buf, rows in zip(self.columns, codec.encode(x, self.fitted), strict=True):
            buf.append(rows)

    def rows(self, begin: int, end: int) -> list[Tensor]:
        """The rows of tokens `begin` to `end`, multiples of the grain."""
        n = max(1, self.n)
        cuts = ((buf.x, begin * buf.n // n, end * buf.n // n) for buf in self.columns)
        return [x.narrow(2, a, b - a) for x, a, b in cuts]

    def decode(self, codec: Codec, begin: int, end: int) -> Tensor:
        """Tokens `begin` to `end` in float32: whole grains are decoded, and cut again."""
        a, b = begin // codec.grain * codec.grain, min(self.n, -(-end // codec.grain) * codec.grain)
        return codec.decode(self.rows(a, b), self.fitted)[:, :, begin - a : end - a]


def packed_footprint(codec: Codec, layer: Layer, batch: int, d: int, n: int, sealed: bool, exact: bool) -> Footprint:
    """Footprint of `Packed` with n tokens."""
    fitted = codec.fitted(layer, batch, d) if sealed else 0
    total = Footprint.of(fitted, read=fitted // batch)
    for column in codec.columns(d):
        entry = layer.hkv * column.width * column.dtype.itemsize
        total += buffer_footprint(batch, entry, n // column.every, exact)
    return total
