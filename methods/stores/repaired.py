"""GEAR's codec (Kang et al. 2024, arXiv:2403.05527, section 3): codes of few bits, and what repairs most of their
error.

    X ~ D + L + S     D the quantized X - S, S the outliers, L of low rank: what is left, X - S - D ~ A B

Each block X [block, d] of a head has its own three parts. S are the largest and the smallest of each vector (a
channel's tokens of the block for keys, a token's channels for values), half of the share `outliers` each, by how much
they exceed the others, so that codes span what is left. A B comes from a few steps of subspace iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.stores.packing import Codec, Column
from kvfrontier.methods.stores.uniform import Uniform

#: Steps of subspace iteration.
STEPS = 3
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Repaired(Codec):
    """Columns: those of `codes`; A of each token, B of each block; values and places of outliers, where there are."""

    codes: Uniform
    block: int
    rank: int
    outliers: float

    @property
    def grain(self) -> int:
        return self.block

    def validate(self, d: int, what: str) -> None:
        self.codes.validate(d, what)
        if self.rank > d:
            raise ValueError(f"rank {self.rank} is more than {what} {d}; lower method.rank")

    def columns(self, d: int) -> tuple[Column, ...]:
        factors = Column(self.rank, torch.float16), Column(self.rank * d, torch.float16, self.block)
        length, count = self._outliers(d)
        if count == 0:
            return *self.codes.columns(d), *factors
        vectors, every = (d, self.block) if self.codes.axis == "channel" else (1, 1)
        place = torch.uint8 if length <= 256 else torch.int32
        outliers = Column(vectors * count, torch.float16, every), Column(vectors * count, place, every)
        return *self.codes.columns(d), *factors, *outliers

    def _outliers(self, d: int) -> tuple[int, int]:
        """Length of a vector, and its number of outliers."""
        length = self.block if self.codes.axis == "channel" else d
        return length, 2 * min(round(self.outliers * length / 2), (length - 1) // 2)

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        x, sparse = x.float(), []
        _, count = self._outliers(x.shape[3])
        rest = x
        if count:
            excess, places = self._exceeding(self._vectors(x), count // 2)
            sparse = [excess.half().flatten(3), places.flatten(3)]
            rest = x - self._tokens(_dense(sparse[0].float().unflatten(3, (-1, count)), places, self._vectors(x)))
        codes = self.codes.encode(rest, [])
        a, b = subspace((rest - self.codes.decode(codes, [])).unflatten(2, (-1, self.block)), self.rank)
        factors = a.half().flatten(2, 3), b.clamp(-_HALF_MAX, _HALF_MAX).half().flatten(3)
        return [*codes, *factors, *sparse]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        own = len(self.codes.columns(self.codes.group))
        codes, (a, b, *sparse) = columns[:own], columns[own:]
        x = self.codes.decode(codes, [])
        x = x + (a.float().unflatten(2, (-1, self.block)) @ b.float().unflatten(3, (self.rank, -1))).flatten(2, 3)
        if not sparse:
            return x
        _, count = self._outliers(x.shape[3])
        excess, places = (part.unflatten(3, (-1, count)) for part in sparse)
        return x + self._tokens(_dense(excess.float(), places, self._vectors(x)))

    def _vectors(self, x: Tensor) -> Tensor:
        """Tokens [B, Hkv, n, d] as the vectors that have outliers: [B, Hkv, blocks, d, block] or [B, Hkv, n, 1, d]."""
        return x.unflatten(2, (-1, self.block)).mT if self.codes.axis == "channel" else x.unsqueeze(3)

    def _tokens(self, vectors: Tensor) -> Tensor:
        return vectors.mT.flatten(2, 3) if self.codes.axis == "channel" else vectors.squeeze(3)

    def _exceeding(self, vectors: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """By how much the `side` largest and smallest of each vector exceed the next, and where they stand."""
        values, places = vectors.sort(dim=-1, stable=True)
        low, high = values[..., side : side + 1], values[..., -side - 1 : -side]
        excess = torch.cat([values[..., :side] - low, values[..., -side:] - high], -1)
        places = torch.cat([places[..., :side], places[..., -side:]], -1)
        kind = torch.uint8 if vectors.shape[-1] <= 256 else torch.int32
        return excess.clamp(-_HALF_MAX, _HALF_MAX), places.to(kind)


def _dense(values: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Zeros but for values at places of the last dimension."""
    return torch.zeros_like(like).scatter(-1, places.long(), values)


def subspace(x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [..., n, rank] with orthonormal columns and B [..., rank, d], A B near the best approximation of x [..., n, d].

    It begins with fixed mixtures of the rows, so that equal tokens have equal codes."""
    n = torch.arange(1, x.shape[-2] + 1, device=x.device, dtype=x.dtype)
    mixed = torch.cos(n * torch.arange(1, rank + 1, device=x.device, dtype=x.dtype)[:, None]) @ x
    for _ in range(STEPS):
        a = torch.linalg.qr(x @ torch.linalg.qr(mixed.mT).Q).Q
        mixed = a.mT @ x
    return a, mixed
