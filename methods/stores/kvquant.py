"""KVQuant (Hooper et al. 2024, arXiv:2401.18079): keys before RoPE rounded per channel, values per token, both to
levels that are not equally far apart, with the largest one in a hundred kept aside in fp16 (non_uniform.py).

For keys offset and scale belong to a channel and are learnt of the prompt when it ends, for values to a token. Levels
are k-means of the prompt's normalised numbers, for one layer's keys or values; the paper weights them by a gradient on
calibration texts, and takes outliers by thresholds from these. Here their number is fixed: of keys the furthest out in
each block of `block` tokens, of values in each token of a head. The first token stays in full, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.kept_unrotated import KeptUnrotated
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.non_uniform import NonUniformKeys, NonUniformValues
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import check_bits

BITS = (2, 3, 4)


@component("store", "kvquant")
@dataclass(frozen=True)
class KVQuantStore(PackedStore):
    """Codes of levels that are fitted to the numbers, and outliers aside.

    bits: 2, 3 or 4; outliers: the share that is kept aside; block: tokens whose keys' outliers are chosen together. It
    wants method/positions=kept_unrotated, the keys before RoPE.
    """

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
