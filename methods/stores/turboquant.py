"""TurboQuant (Zandieh et al. 2025, arXiv:2504.19874, algorithm 1): after a random rotation every coordinate of a unit
vector has one known distribution, so that the best scalar quantizer for it can be computed beforehand.

    x = |x| u,   code_i = the level nearest to sqrt(d) (u R)_i,   |x| in fp16

A coordinate of a random unit vector in d dimensions has the density (1 - u^2)^((d-3)/2), nearly normal with variance
1/d; Lloyd's algorithm gives its levels. R is two Hadamard matrices with random signs one after the other (rotation.py),
where the paper draws any rotation: it is made in an instant, and even a vector with one outlier comes out nearly
normal, as it would not after one of them. This is the paper's quantizer of least squared error, for keys and values
alike.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import Codec, Column, check_bits, lanes_of, pack, unpack
from kvfrontier.methods.stores.rotation import rotation

BITS = (1, 2, 3, 4)


@functools.cache
def levels(bits: int, d: int | None = None) -> tuple[float, ...]:
    """2^bits levels of least squared error for sqrt(d) times a coordinate of a random unit vector in `d` dimensions, or
    for a normal variable where d is None: by Lloyd's algorithm, ascending."""
    end = 8.0 if d is None else min(8.0, math.sqrt(d))
    grid = [end * (i / 10_000 - 1) for i in range(20_001)]
    density = [math.exp(-x * x / 2) if d is None else max(0.0, 1 - x * x / d) ** max(0.0, (d - 3) / 2) for x in grid]
    mass = [0.0, *itertools.accumulate(density)]
    moment = [0.0, *itertools.accumulate(x * p for x, p in zip(grid, density, strict=True))]
    n = 2**bits
    found = [2 * (2 * i + 1 - n) / n for i in range(n)]
    for _ in range(10_000):
        cuts = [0, *(bisect.bisect(grid, (a + b) / 2) for a, b in itertools.pairwise(found)), len(grid)]
        means = [(moment[b] - moment[a]) / (mass[b] - mass[a]) for a, b in itertools.pairwise(cuts)]
        if means == found:
            break
        found = means
    return tuple(found)


@dataclass(frozen=True)
class UnitLevels(Codec):
    """Columns: codes of a rotated unit vector, and norms in fp16."""

    bits: int

    def columns(self, d: int) -> tuple[Column, ...]:
        return Column(d * self.bits // 8, torch.uint8), Column(1, torch.float16)

    def validate(self, d: int, what: str) -> None:
        if d % lanes_of(self.bits):
            raise ValueError(
                f"{what} {d} is no multiple of {lanes_of(self.bits)}, which {self.bits} bits pack together"
            )

    def encode(self, x: Tensor, fitted: Sequence[Tensor]) -> list[Tensor]:
        d, half = x.shape[-1], torch.finfo(torch.float16)
        norm = x.float().norm(dim=-1, keepdim=True)
        unit = x.float() / norm.clamp(min=torch.finfo(torch.float32).tiny) * d**0.5
        cuts = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(levels(self.bits, d))], device=x.device)
        return [pack(torch.bucketize(unit, cuts).to(torch.uint8), self.bits), norm.clamp(max=half.max).half()]

    def decode(self, columns: Sequence[Tensor], fitted: Sequence[Tensor]) -> Tensor:
        codes = unpack(columns[0], self.bits)
        d = codes.shape[-1]
        table = torch.tensor(levels(self.bits, d), device=codes.device) * d**-0.5
        return table[codes.int()] * columns[1].float()


@component("store", "turboquant")
@dataclass(frozen=True)
class TurboQuantStore(PackedStore):
    """Rotated vectors as codes of levels fitted to their distribution, and norms.

    bits: a coordinate's, 1 to 4; seed: of the rotation.
    """

    residual: int = 0
    bits: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_bits(self.bits, BITS)
        super().__post_init__()

    @property
    def codecs(self) -> tuple[UnitLevels, UnitLevels]:
        return UnitLevels(self.bits), UnitLevels(self.bits)

    def basis(self, d: int, like: Tensor) -> Tensor:
        return rotation(d, 2 * self.seed, like) @ rotation(d, 2 * self.seed + 1, like)


@register(
    "turboquant",
    family="store",
    paper="Zandieh et al. 2025, arXiv:2504.19874, algorithm 1",
    label=lambda p: f"turboquant{p['bits']}",
    cost="2 Hkv T (b/8 d + 2) bytes; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def TurboQuant(bits: int = 4, residual: int = 0, seed: int = 0) -> Cached:
    """Quantized cache in a rotated basis, at the levels that suit its known distribution (TurboQuant).

    bits 1 to 4 a coordinate; `residual` newest tokens stay in full.
    """
    return Cached(store=TurboQuantStore(residual, bits=bits, seed=seed))
