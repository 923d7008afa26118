"""Dense attention: every key and value of every token, in full. What all others are compared with."""

from __future__ import annotations

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.registry import register


@register(
    "dense",
    family="baseline",
    paper="Vaswani et al. 2017, arXiv:1706.03762, equation 1",
    cost="2 Hkv d T elements",
    tags=("growing", "internal", "exact", "per layer"),
)
def Dense(backend: str = "auto") -> Cached:
    """The full key-value cache.

    backend: one of `kvfrontier list backends`, as eager (the oracle); auto takes the device's fused kernel.
    """
    return Cached(backend=backend)
