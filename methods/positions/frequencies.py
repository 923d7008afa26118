"""What stretched positions share. RoPE turns pair i of a query or key by position x frequency i; a model stretched over
a longer text turns it slower. Keys keep the true positions at which they were stored, whatever leaves around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvfrontier.methods.axes import Positions
from kvfrontier.methods.layer import Layer, Rope


@dataclass(frozen=True)
class Stretched(Positions):
    """True positions under other frequencies. A subclass gives these. A layer without RoPE has nothing to stretch."""

    unrotated: ClassVar[bool] = True

    def frequencies(self, rope: Rope) -> Tensor:
        """[R/2] float32, radians a token."""
        raise NotImplementedError

    def temperature(self) -> float:
        """Factor on what is turned, of queries and of keys."""
        return 1.0

    def turn(self, x: Tensor, pos: Tensor, layer: Layer) -> Tensor:
        """Rotate x [B, H, T, D] to positions [B, T] (or [1, T])."""
        if layer.rope is None:
            return x
        angles = pos[..., None].float() * self.frequencies(layer.rope).to(pos.device)
        return layer.rope.rotate(x, angles, self.temperature())

    def stored(self, k: Tensor, k_pre: Tensor | None, pos: Tensor, layer: Layer) -> Tensor:
        assert k_pre is not None
        return self.turn(k_pre, pos, layer)

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        assert q_pre is not None
        return self.turn(q_pre, pos, layer)


def trained_length(given: int | None, rope: Rope) -> int:
    """Positions that the model was trained on: as given, or what the model says."""
    trained = given or rope.trained
    if trained is None:
        raise ValueError("this model does not say how many positions it was trained on; set method.trained")
    return trained


def check_stretch(factor: float, trained: int | None = None) -> None:
    """Raise ValueError where a text would be shortened, or `trained` is no length."""
    if factor < 1:
        raise ValueError(f"factor {factor} stretches nothing; set method.factor to at least 1")
    if trained is not None and trained < 1:
        raise ValueError(f"trained {trained} is no length; set method.trained to at least 1, or to null")
