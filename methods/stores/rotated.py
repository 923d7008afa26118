"""Keys and values rotated before they are quantized (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456).

    q . k = (q R) . (k R),   sum p v = (sum p (v R)) R^T,   R a Hadamard matrix with random signs (rotation.py)

A rotation spreads the outliers of a few channels over all of them, so that groups along a token's channels have no
large range. It is undone on the query and on the output, and is remade from its seed: nothing is stored for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.quantized import QuantizedStore
from kvfrontier.methods.stores.rotation import rotation
from kvfrontier.methods.stores.uniform import Axis


@component("store", "rotated")
@dataclass(frozen=True)
class RotatedStore(QuantizedStore):
    """Uniform quantization by token, in a rotated basis. The tokens still in full are held in it too."""

    bits: int = 4
    key_axis: Axis = "token"
    value_axis: Axis = "token"
    seed: int = 0

    def basis(self, d: int, like: Tensor) -> Tensor:
        return rotation(d, self.seed, like)


@register(
    "rotated",
    family="store",
    paper="Ashkboos et al. 2024, arXiv:2404.00456, section 4 (the KV cache)",
    label=lambda p: f"rotated{p['bits']}",
    cost="per head, K and V each: (T-s)(b/8 d + 4d/G) + s d e, s = min(T, R); until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Rotated(bits: int = 4, group: int = 32, residual: int = 128, symmetric: bool = False, seed: int = 0) -> Cached:
    """Quantized cache in a rotated basis, in which there are no outliers (QuaRot's cache).

    bits 8, 4, 3 or 2; `group` channels of a token share a scale; `residual` newest tokens stay in full. QuaRot's groups
    are 128 channels, none of its tokens stay in full, and ranges are clipped to 0.95; here group and residual are
    KIVI's, so that the rotation is all in which the two differ.
    """
    return Cached(store=RotatedStore(residual, bits=bits, group=group, symmetric=symmetric, seed=seed))
