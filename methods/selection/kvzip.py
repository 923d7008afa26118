"""KVzip (Kim et al. 2025, arXiv:2505.23416): a cache is good if the model can repeat the context from it, whatever is
asked later. So when the prompt ends, the model reads it a second time, behind the full cache, in chunks of `chunk`
tokens; a token's score is the highest attention that it receives from the queries that repeat its chunk,

    score_i = max over these queries, and over the query heads of a group, of softmax(q [K_chunk; K_repeat] / sqrt(d))_i

and the layer's best Hkv b tokens stay, in each head as many as deserve it (official code: the best over all layers;
its "pair-uniform" is `uniform` here: as many from each head, which a store that is not ragged can hold).
The official code leads each chunk in with a request in words, which a method, having no tokenizer, leaves out; what it
keeps of it are the `lead` last tokens of the chunk before, from where on to repeat. Nor does a method know which tokens
are the system prompt's, which the official code never evicts and adds to the keys of the softmax above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend.eager import BLOCK
from kvfrontier.methods.axes import Call
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Phase, Run
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import DenseStore
from kvfrontier.methods.stores.ragged import RaggedStore


@dataclass
class Repeated(State):
    """best [B, Hkv, m] float32: highest weight of the first m tokens, those repeated so far; it lives while the second
    pass runs. n: tokens of the context."""

    best: Buf
    n: int = 0


@component("selection", "kvzip")
@dataclass(frozen=True)
class KVzipSelection(SealSelection):
    """`budget` tokens a head on average (`uniform`: in each head), those that repeating the context needs most: in
    chunks of `chunk` tokens, each led in by `lead` tokens. A token that was never repeated has score 0."""

    chunk: int = 2000
    lead: int = 8
    uniform: bool = False

    observes: ClassVar[tuple[Phase, ...]] = ("score",)
    wants_weights: ClassVar[bool] = True
    rereads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1:
            raise ValueError(f"chunk {self.chunk} repeats no token; set method.chunk to at least 1")
        if self.lead < 0:
            raise ValueError(f"lead {self.lead} is a number of tokens; set method.lead to 0 or more")

    @property
    def ragged(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.uniform

    def read_again(self, run: Run, ids: Tensor) -> None:
        if ids.shape[1] <= self.budget:
            return
        for begin in range(0, ids.shape[1], self.chunk):
            run(ids[:, max(0, begin - self.lead) : begin + self.chunk], phase="score")

    def init(self, layer: Layer, batch: int) -> Repeated:
        return Repeated(Buf.empty(batch, layer.hkv, 0, exact=True, dtype=torch.float32, device=layer.device))

    def remember(self, state: Any, n: int, keys: Callable[[int, int], Tensor]) -> None:
        if state is not None:
            state.n = n

    @torch.no_grad()
    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        begin = state.best.n
        lead = min(self.lead, begin)
        # A row that is shorter than others of its batch is through before them.
        end = min(begin + call.q.shape[2] - lead, state.n)
        if end <= begin:
            return
        best = state.best.view().new_zeros(*state.best.x.shape[:2], end - begin)
        queries = lead + end - begin
        for a in range(0, queries, BLOCK):
            weights = call.weights(a, min(queries, a + BLOCK))
            chunk, repeat = weights[..., begin:end], weights[..., state.n :]
            mass = (chunk.sum(-1, keepdim=True) + repeat.sum(-1, keepdim=True)).clamp(min=torch.finfo(chunk.dtype).tiny)
            best = torch.maximum(best, (chunk / mass).amax((2, 3)))
        state.best.append(best)

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        best = state.best.view()
        return torch.cat([best, best.new_zeros(*best.shape[:2], k.shape[2] - best.shape[2])], 2)

    def choose(self, scores: Tensor, m: int) -> tuple[Tensor, Tensor]:
        return super().choose(scores, m) if self.uniform else super().choose(scores.flatten(1), scores.shape[1] * m)


@register(
    "kvzip",
    family="selection",
    paper="Kim et al. 2025, arXiv:2505.23416, algorithm 1",
    cost="2 Hkv d (min(T, b) + generated) elements, and Hkv lengths; until seal 2 Hkv d T, and T token ids",
    tags=("growing", "internal", "lossy", "per head"),
)
def KVzip(budget: int = 256, chunk: int = 2000, lead: int = 8, uniform: bool = False) -> Cached:
    """KVzip: at the end of the prompt keep what the model needs to repeat it.

    budget: tokens that stay in each layer and head, on average over its heads; chunk: tokens that are repeated at once;
    lead: tokens before a chunk from which the repetition sets out; uniform: as many from each head.
    """
    return Cached(KVzipSelection(budget, chunk, lead, uniform), DenseStore() if uniform else RaggedStore())
