"""GEAR (Kang et al. 2024, arXiv:2403.05527): codes of few bits, along KIVI's axes, whose error is repaired by a part of
low rank and by outliers in full (repaired.py).

Tokens are packed a `residual` at a time, the paper's buffer. There the prompt is one block, with a rank of its own, and
a token's outliers are those of all heads together; here it is many blocks, so that the low-rank part follows the text
more closely, and costs more, and all blocks and heads are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import check_bits
from kvfrontier.methods.stores.repaired import Repaired
from kvfrontier.methods.stores.uniform import Axis, Uniform


@component("store", "gear")
@dataclass(frozen=True)
class GearStore(PackedStore):
    """Codes in groups, repaired by a low-rank part and by outliers.

    bits, group: of the codes; rank: of each block's A B; outliers: share of entries; residual: tokens of a block.
    """

    residual: int = 64
    bits: int = 2
    group: int = 64
    rank: int = 4
    outliers: float = 0.02

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.group < 1:
            raise ValueError(f"group size {self.group} must be at least 1")
        if self.residual < self.group or self.residual % self.group:
            raise ValueError(
                f"residual {self.residual} is not a positive multiple of the group size {self.group}; change "
                "method.residual or method.group"
            )
        if not 1 <= self.rank <= self.residual:
            raise ValueError(
                f"rank {self.rank} must be from 1 to the {self.residual} tokens of a block; change method.rank"
            )
        if not 0 <= self.outliers < 1:
            raise ValueError(f"outliers {self.outliers} is no share of the entries; set it from 0 to below 1")
        super().__post_init__()

    @property
    def codecs(self) -> tuple[Repaired, Repaired]:
        axes: tuple[Axis, Axis] = ("channel", "token")
        keys, values = (
            Repaired(Uniform(self.bits, axis, self.group), self.residual, self.rank, self.outliers) for axis in axes
        )
        return keys, values


@register(
    "gear",
    family="store",
    paper="Kang et al. 2024, arXiv:2403.05527, sections 3 and 4",
    cost="per head, K and V each, of p = T - T mod R tokens: p (b/8 d + 4d/G), 2 r p (1 + d/R) of factors, 3 s d p of "
    "outliers; (T-p) d e in full; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per head"),
)
def GEAR(bits: int = 2, group: int = 64, residual: int = 64, rank: int = 4, outliers: float = 0.02) -> Cached:
    """GEAR: quantized cache whose error is repaired by a low-rank part and by outliers in full.

    bits, group: of the codes; residual: tokens that are packed together, and stay in full until then; rank: of the
    repair; outliers: share of entries that are kept apart. As in the authors' code over KIVI's codes.
    """
    return Cached(store=GearStore(residual, bits=bits, group=group, rank=rank, outliers=outliers))
