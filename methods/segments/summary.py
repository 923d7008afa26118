"""Text memory: when the prompt ends the model goes on writing, greedily, and what it wrote is read again in place of
the prompt. Nothing else of the prompt is kept: the summary is text, read as a text of its own from position 0.

A prompt that ends with the request for a summary gets one; another gets the model's own continuation. What is decoded
afterwards stands behind the summary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import needs_grad
from kvfrontier.methods.contract import Footprint, Run
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.segments.reading import Reader

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


def refuse_gradient(x: Tensor) -> None:
    """Raise ValueError where what is summarised is to be trained."""
    if needs_grad(x):
        raise ValueError("a summary is text, through which no gradient reaches the prompt; train without seal")


@register(
    "summary",
    family="segments",
    cost="2 Hkv d (m + generated) elements; until seal 2 Hkv d (T + m)",
    tags=("growing", "external", "lossy", "per sequence"),
)
@dataclass(frozen=True)
class Summary(Reader):
    """Text memory: `tokens` tokens that the model writes at the end of the prompt, read in its place."""

    tokens: int = 128

    decode_equals_prefill: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    query_sensitive: ClassVar[bool] = True
    knob: ClassVar[str | None] = "tokens"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens {self.tokens} write no summary; set method.tokens to at least 1")

    def reach(self, trained: float) -> float:
        return trained - self.tokens

    def second_pass(self, run: Run, session: Session) -> None:
        logits, written = session.last_logits, []
        assert logits is not None
        refuse_gradient(logits)
        while len(written) < self.tokens:
            written.append(logits.argmax(-1, keepdim=True))
            if len(written) < self.tokens:
                logits = self.read(run, session, written[-1], phase="prefill")[:, -1]
        self.forget(session)
        self.read(run, session, torch.cat(written, 1), phase="prefill", hidden=True)

    def seal(self, state: Any, layer: Layer) -> None:
        refuse_gradient(state.cache.store.k.x)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.holding(layer, batch, (self.tokens if sealed else prompt) + new)
