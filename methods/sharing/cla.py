"""Cross-layer attention (Brandon et al. 2024, arXiv:2405.12981, section 3): of every `factor` adjacent layers only the
first projects keys and values and keeps them; the others bring queries alone, and attend to what it kept.

    layer i reads the keys and values of layer i - (i mod factor)

On a pretrained model the projections of the reading layers go unused, so it must be trained (or uptrained) that way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register


@dataclass(frozen=True)
class Shared(Cached):
    """Groups of `factor` adjacent layers, from layer `first` on; each group has one state, that of its first layer."""

    factor: int = 2
    first: int = 0

    needs_training: ClassVar[bool] = True
    #: Keys of a group's later layers are not those of dense attention.
    adopts: ClassVar[None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1:
            raise ValueError(f"factor {self.factor} is a number of layers; set method.factor to at least 1")
        if not self.shareable:
            raise ValueError("layers can share a plain cache of every token, and this one is none")

    def validate(self, layer: Layer) -> None:
        super().validate(layer)
        kind = (
            "a window of the model's own"
            if layer.window is not None
            else "keys and values of another layer already"
            if layer.source is not None
            else "latents in place of keys and values"
            if layer.latent is not None
            else None
        )
        if kind:
            raise ValueError(
                f"layer {layer.index} has {kind}, and cannot share a full cache; choose a model whose layers all have "
                "full attention"
            )

    def at(self, layer: Layer) -> Shared:
        return self

    def source(self, layer: Layer) -> int | None:
        place = layer.index - self.first
        return layer.index - place % self.factor if place > 0 and place % self.factor else None

    def lossless(self, n: int) -> Shared:
        return replace(self, factor=1)


@register(
    "cla",
    family="sharing",
    paper="Brandon et al. 2024, arXiv:2405.12981, section 3",
    cost="2 Hkv d T elements in one of every `factor` layers, nothing in the others",
    label=lambda p: f"cla{p['factor']}",
    tags=("growing", "internal", "lossy", "per layer"),
)
def CLA(factor: int = 2, backend: str = "auto") -> Shared:
    """Cross-layer attention: adjacent layers share the keys and values of the first of them.

    factor: layers that share one cache (2 is the paper's choice). backend as in `dense`.
    """
    return Shared(factor=factor, backend=backend)
