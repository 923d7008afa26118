"""Gist tokens (Mu et al. 2023, arXiv:2304.08467): a model is trained to compress a prompt into a few learned tokens
behind it. What comes after sees these alone (the paper's mask, section 3): so their keys and values are all that is
kept of the prompt. The tokens that follow stand behind the prompt and the gist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.methods.contract import Footprint, Run
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.segments.reading import LearnedTokens, Reader, learned

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@register(
    "gist",
    family="segments",
    paper="Mu et al. 2023, arXiv:2304.08467, section 3",
    cost="2 Hkv d (g + generated) elements; until seal 2 Hkv d T",
    tags=("growing", "internal", "lossy", "per layer"),
)
@dataclass(frozen=True)
class Gist(Reader):
    """Gist tokens: of a prompt only the keys and values of `tokens` learned tokens behind it stay."""

    tokens: int = 10

    decode_equals_prefill: ClassVar[bool] = False
    needs_training: ClassVar[bool] = True
    knob: ClassVar[str | None] = "tokens"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens {self.tokens} keep nothing of the prompt; set method.tokens to at least 1")

    def reach(self, trained: float) -> float:
        return trained - self.tokens

    def module(self, layer: Layer) -> LearnedTokens | None:
        return LearnedTokens(self.tokens, layer) if layer.index == 0 else None

    def second_pass(self, run: Run, session: Session) -> None:
        gist = learned(self.tokens, session.layers[0], self.batch(session))
        self.read(run, session, gist, phase="prefill", hidden=True)

    def seal(self, state: Any, layer: Layer) -> None:
        cache, store = state.cache, self.cache().store
        if not cache.sealed:
            store.drop(cache.store, 0, max(0, store.n(cache.store) - self.tokens))
            cache.sealed = True

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.holding(layer, batch, (self.tokens if sealed else prompt) + new)
