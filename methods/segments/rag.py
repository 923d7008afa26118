"""Retrieval (before a language model: Ram et al. 2023, arXiv:2302.00083; BM25: Robertson & Zaragoza 2009): the text is
kept as text, outside the model, and the passages that a question asks for are read before it. For a question q and a
passage p of token ids, among N passages, n_t of which hold the token t,

    score(q, p) = sum over t in q of  ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) f (k1 + 1) / (f + k1),   f = count of t in p

Passages are equally long, so that BM25's correction for length is 1. The question is what the first call after the
prompt brings; what comes later is read behind it. Before, nothing is read but the end of each call, for its logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Footprint, Run
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.segments.reading import Reader
from kvfrontier.methods.state import Buf, Bytes, Host, State, capacity

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

#: Tokens of a question that are compared with all passages at once.
BLOCK = 16


@dataclass
class Library(State):
    """ids [B, n] int64 in host memory: the prompt; asked: whether a question has been read."""

    ids: Host
    asked: bool = False


def bm25(passages: Tensor, question: Tensor, k1: float) -> Tensor:
    """Scores [B, N] in float32 of passages [B, N, p] for questions [B, m], token ids both. A token that the question
    repeats counts as often."""
    N = passages.shape[1]
    score = torch.zeros(passages.shape[:2])
    for tokens in question.split(BLOCK, 1):
        tf = (passages[..., None] == tokens[:, None, None]).sum(2).float()  # [B, N, tokens]
        holding = (tf > 0).sum(1, keepdim=True)
        rarity = torch.log(1 + (N - holding + 0.5) / (holding + 0.5))
        score = score + (rarity * tf * (k1 + 1) / (tf + k1)).sum(2)
    return score


@register(
    "rag",
    family="segments",
    paper="Ram et al. 2023, arXiv:2302.00083; BM25: Robertson & Zaragoza 2009",
    cost="8 T bytes of token ids in host memory; once asked 2 Hkv d (k passage + generated) elements",
    tags=("growing", "external", "lossy", "per sequence"),
)
@dataclass(frozen=True)
class RAG(Reader):
    """Retrieval: the prompt's token ids, and the passages that match the first question, read before it.

    passage: tokens of a passage; k: passages that are read, in the text's order; k1: how fast a repeated token counts
    less.
    """

    passage: int = 128
    k: int = 4
    k1: float = 1.5

    chunk_invariant: ClassVar[bool] = False
    decode_equals_prefill: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.passage < 1 or self.k < 1:
            raise ValueError(
                f"passage {self.passage} and k {self.k} read nothing; set method.passage and method.k to at least 1"
            )
        if self.k1 < 0:
            raise ValueError(f"k1 {self.k1} makes a repeated token count against a passage; set method.k1 to 0 or more")

    def reach(self, trained: float) -> float:
        # The question and the answer need a place behind the passages.
        return math.inf if self.k * self.passage < trained else trained

    def init_sequence(self, batch: int, device: torch.device | str) -> Library:
        return Library(Host(Buf.empty(batch, 0, dim=1, dtype=torch.int64, device="cpu")))

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        library: Any = session.sequence_state
        if run.phase == "prefill":
            library.ids.inner.append(ids.cpu())
            return self.read(run, session, ids[:, -self.passage :], phase="score")
        if not library.asked:
            self.read(run, session, self.found(library.ids.inner.view(), ids.cpu()).to(ids.device), hidden=True)
            library.asked = True
        return self.read(run, session, ids)

    def found(self, text: Tensor, question: Tensor) -> Tensor:
        """The passages [B, m] of a text [B, n] that the question asks for. The last one ends with the text, and may
        overlap the one before it."""
        n = text.shape[1]
        size = min(self.passage, n)
        starts = (arange(0, -(-n // size), text) * size).clamp(max=n - size)
        passages = text[:, starts[:, None] + arange(0, size, text)]
        best = bm25(passages, question, self.k1).sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        best = best.sort(1).values
        return passages.gather(1, best[..., None].expand(-1, -1, size)).flatten(1)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        size = max(1, min(self.passage, prompt))
        return self.holding(layer, batch, min(self.k, -(-prompt // size)) * size + new if new else 0)

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        one = batch * torch.int64.itemsize
        return Footprint(Bytes(host=one * prompt, host_slack=one * (capacity(prompt) - prompt)))
