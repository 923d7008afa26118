"""No cache at all: the whole text is run again for every token. What caching replaced, and the denominator of
StreamingLLM's speed-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import add_sink_logits, choose, needs_grad
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import Buf, State

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@dataclass
class Tokens(State):
    """ids [B, n] int64: the text so far, all that is remembered."""

    ids: Buf


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
        return Tokens(Buf.empty(batch, 0, dim=1, exact=True, dtype=torch.int64, device=device))

    def drive(self, run: Callable[..., Tensor], ids: Tensor, session: Session) -> Tensor:
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
        n = (prompt + new) * torch.int64.itemsize
        return Footprint.of(batch * n, read=n)

    def lossless(self, n: int) -> Recompute:
        return self
