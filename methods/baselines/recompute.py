"""No cache at all: the text, or its newest window, is run again for every token. What caching replaced; with a window,
what StreamingLLM's speed-up is measured against (Xiao et al. 2023, arXiv:2309.17453, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import add_sink_logits, choose, needs_grad
from kvfrontier.methods.contract import Footprint, Method, Run, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.sequence import Tokens, tokens_footprint

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@register(
    "recompute",
    family="baseline",
    cost="the token ids: 8 T bytes, for all layers together",
    tags=("growing", "external", "exact", "per sequence"),
)
@dataclass(frozen=True)
class Recompute(Method):
    """No cache: every call runs the whole text again."""

    def init_state(self, layer: Layer, batch: int) -> None:
        return None

    def init_sequence(self, batch: int, device: torch.device | str) -> Tokens:
        return Tokens.empty(batch, device)

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        tokens: Any = session.sequence_state
        tokens.ids.append(ids)
        return run(tokens.ids.view(), fresh=True)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        attend = choose("auto", layer, needs_grad(q, k, v))
        part = attend(q, k, v, scale=layer.scale, causal=True, softcap=layer.softcap, lse=step.sinks is not None)
        return (part if step.sinks is None else add_sink_logits(part, step.sinks))[0]

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Footprint()

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return tokens_footprint(batch, prompt + new, read=True)

    def lossless(self, n: int) -> Recompute:
        return self


@register(
    "window_recompute",
    family="baseline",
    paper="Xiao et al. 2023, arXiv:2309.17453, section 3.1",
    cost="the newest token ids: 8 min(T, w) bytes, for all layers together",
    tags=("fixed", "external", "lossy", "per sequence"),
)
@dataclass(frozen=True)
class WindowRecompute(Recompute):
    """No cache: every call runs the newest `window` tokens again, as a text of their own."""

    window: int = 256

    bounded: ClassVar[bool] = True
    knob: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window {self.window} holds no token; set method.window to at least 1")

    def reach(self, trained: float) -> float:
        return math.inf if self.window <= trained else trained

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        tokens: Any = session.sequence_state
        seen, text = session.n_tokens, torch.cat([tokens.ids.view(), ids], 1)
        logits = []
        # Every token whose logits are asked for ends a window of its own.
        for end in range(text.shape[1] - run.keep + 1, text.shape[1] + 1):
            begin = max(0, end - self.window)
            skipped = seen + ids.shape[1] - text.shape[1] + begin
            logits.append(run(text[:, begin:end], fresh=True, skipped=skipped, keep=1))
        tokens.ids.set(text[:, -self.window :])
        return torch.cat(logits, 1)

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return tokens_footprint(batch, min(prompt + new, self.window), read=True)

    def lossless(self, n: int) -> WindowRecompute:
        return replace(self, window=n)
