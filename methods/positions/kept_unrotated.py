"""The text's own positions, with keys kept before RoPE and rotated when they are attended.

A key's channels keep their size along a text only before RoPE turns them in pairs, which a store that rounds keys
channel by channel wants (KVQuant, Hooper et al. 2024, arXiv:2401.18079, section 3.2). The price is a rotation of all
keys for every query. A slot is a position, so no token may leave.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvfrontier.methods.axes import Selection
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import called, component


@component("positions", "kept_unrotated")
@dataclass(frozen=True)
class KeptUnrotated(InCachePositions):
    """Keys before RoPE in the store; queries as the model made them."""

    def check(self, selection: Selection) -> None:
        if selection.when != "never":
            raise ValueError(
                f"under positions kept_unrotated a slot is a position, and {called(selection)} lets tokens leave; "
                "choose method/positions=original or in_cache, or method/selection=all"
            )

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        return q
