"""A window of the newest tokens, with or without attention sinks.

A query sees the last `window` tokens, its own included, and the first `sinks` tokens of the text; the state holds just
these. StreamingLLM (Xiao et al. 2023, arXiv:2309.17453): softmax puts its spare weight on the first tokens, and a
window that drops them breaks the model; a few of them kept as sinks rescue it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from kvfrontier.methods.axes import ENDLESS, Positions, Selection, Span, When
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import component, register


@component("selection", "window")
@dataclass(frozen=True)
class WindowSelection(Selection):
    """The first `sinks` and the last `window` tokens."""

    window: int = 256
    sinks: int = 0

    when: ClassVar[When] = "order"
    rolling: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    knob: ClassVar[str | None] = "window"

    def __post_init__(self) -> None:
        if self.window < 0 or self.sinks < 0:
            raise ValueError(
                f"window {self.window} and sinks {self.sinks} are numbers of tokens and cannot be negative"
            )

    @property
    def local(self) -> bool:
        return self.sinks == 0

    @property
    def most(self) -> int:
        return self.sinks + self.window

    def room(self, n: int) -> int:
        # The sinks are the first tokens of the text: up to there attention is plain, after it they are seen by all.
        return self.sinks - n if n < self.sinks else ENDLESS

    def spans(self, S: int, T: int) -> list[Span]:
        if self.sinks > S:
            return [Span(0, S + T)]
        sinks = [Span(0, self.sinks, last=False, capped=True)] if self.sinks else []
        return sinks + ([Span(self.sinks, S + T, window=self.window)] if self.window else [])

    def cap(self) -> int:
        return self.sinks + self.window - 1

    def left(self, S: int, T: int) -> tuple[int, int]:
        return self.sinks, self.sinks + max(0, S + T - self.sinks - self.window)

    def slots(self, prompt: int, new: int, sealed: bool, layer: Layer) -> int:
        return min(prompt + new, self.sinks + self.window)

    def lossless(self, n: int) -> WindowSelection:
        return replace(self, window=n)


@component("selection", "sinks")
def sinks_and_window(window: int = 252, sinks: int = 4) -> WindowSelection:
    """StreamingLLM's choice of tokens, at its usual sizes."""
    return WindowSelection(window, sinks)


@register(
    "window",
    family="selection",
    cost="2 Hkv d min(T, w) elements",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def Window(window: int = 256) -> Cached:
    """Sliding window: the last `window` tokens, at their own positions."""
    if window < 1:
        raise ValueError(f"window {window} holds no token; set method.window to at least 1")
    return Cached(WindowSelection(window))


@register(
    "sinks",
    family="selection",
    paper="Xiao et al. 2023, arXiv:2309.17453, section 3.2",
    cost="2 Hkv d min(T, s + w) elements",
    label=lambda p: "sinks" if p["positions"] == "in_cache" else "sinks_original",
    tags=("fixed", "internal", "lossy", "per layer"),
)
def Sinks(
    window: int = 252,
    sinks: int = 4,
    positions: Literal["in_cache", "original"] = "in_cache",
    budget: int | None = None,
) -> Cached:
    """StreamingLLM: the first `sinks` tokens and a window; positions are those in the cache.

    window and sinks in tokens. `positions="original"` keeps the text's own. `budget`, where given, is the two together:
    the window becomes what the sinks leave of it.
    """
    if budget is not None:
        if budget <= sinks:
            raise ValueError(
                f"budget {budget} leaves no token beside {sinks} sinks; raise method.budget or lower method.sinks"
            )
        window = budget - sinks
    if window < 1:
        raise ValueError(f"window {window} holds no token; set method.window to at least 1")
    return Cached(
        WindowSelection(window, sinks), positions=InCachePositions() if positions == "in_cache" else Positions()
    )
