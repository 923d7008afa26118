"""Hybrid: a few layers of full attention among recurrent ones. A recurrent layer's cache does not grow, and the full
layers recall what its matrix forgot; with every fourth layer full a quarter of the cache is left.

The full layers are counted from the last: l is full where (L - 1 - l) mod every = 0. That is every fourth, the last of
each four, in Qwen3-Next and Kimi Linear (arXiv:2510.26692), both with a gated delta rule between; Jamba
(arXiv:2403.19887) has one in eight, among Mamba layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from kvfrontier.methods.baselines.dense import Dense
from kvfrontier.methods.contract import Method
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.per_layer import Layers, PerLayer
from kvfrontier.methods.recurrent.deltanet import DeltaNet
from kvfrontier.methods.recurrent.gated_deltanet import GatedDeltaNet
from kvfrontier.methods.recurrent.gla import GLA
from kvfrontier.methods.recurrent.linear import Linear
from kvfrontier.methods.recurrent.retnet import RetNet
from kvfrontier.methods.recurrent.rwkv6 import RWKV6
from kvfrontier.methods.recurrent.ssd import SSD
from kvfrontier.methods.registry import register

Mixer = Literal["deltanet", "gated_deltanet", "gla", "linear", "retnet", "rwkv6", "ssd"]
_MIXERS: tuple[type[Method], ...] = (DeltaNet, GatedDeltaNet, GLA, Linear, RetNet, RWKV6, SSD)


@dataclass(frozen=True)
class Interleaved(PerLayer):
    """`full` in every `every`-th layer, the last among them; `default` in the others."""

    choices: tuple[tuple[Layers, Method], ...] = ()
    full: Method = field(default_factory=Dense)
    every: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"every {self.every} counts no layers; set method.every to at least 1")

    @property
    def methods(self) -> Iterator[Method]:
        yield self.default
        yield self.full

    def at(self, layer: Layer) -> Method:
        return (self.default if (layer.count - 1 - layer.index) % self.every else self.full).at(layer)

    def lossless(self, n: int) -> None:
        return None


@register(
    "hybrid",
    family="recurrent",
    paper="Lieber et al. 2024, arXiv:2403.19887, section 3; Kimi Team 2025, arXiv:2510.26692",
    cost="2 Hkv d T elements in one layer of `every`, Hkv d^2 in fp32 in the others",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Hybrid(every: int = 4, mixer: Mixer = "gated_deltanet") -> Interleaved:
    """Full attention in every fourth layer, a recurrent method in the others.

    every: layers to one of full attention; mixer: the recurrent method, with its own usual parameters.
    """
    return Interleaved(dict(zip(get_args(Mixer), _MIXERS, strict=True))[mixer](), every=every)
