"""Long generation: how far a method is from dense attention after thousands of tokens that dense attention wrote, and
what its state has grown to by then. Methods that compress the prompt alone grow here.

Dense attention continues a passage greedily; the method is given the same tokens, one after the other, and both
predict each of them (agreement, kl and nll as in `perplexity`; nll is of dense attention's own tokens).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.runners.errors import ContextError
from kvfrontier.runners.record import Quality
from kvfrontier.runners.tasks.passages import passage
from kvfrontier.runners.tasks.perplexity import losses, scores, summary
from kvfrontier.runners.tasks.task import OpenSession, Progress, States, Task, Tokenizer

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel
    from kvfrontier.runners.session import Session

#: How often on the way live bytes are noted.
_NOTES = 8


@dataclass(frozen=True)
class LongGeneration(Task):
    """texts       names in runners.texts: the passages that are continued
    new_tokens  how many tokens dense attention writes; part of the context
    block       neighbouring tokens that the bootstrap resamples together
    """

    texts: tuple[str, ...] = ("hamlet",)
    new_tokens: int = 1024
    block: int = 64

    name: ClassVar[str] = "long_generation"
    version: ClassVar[int] = 1
    primary: ClassVar[str] = "agreement"
    summary: ClassVar[str] = "agreement with dense attention on thousands of tokens that it writes"
    size: ClassVar[tuple[str, ...]] = ("block",)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts is empty: name at least one")
        if self.block < 1 or self.new_tokens < _NOTES or self.new_tokens % self.block or self.new_tokens % _NOTES:
            raise ValueError(f"new_tokens={self.new_tokens} is not a multiple of block={self.block} and of {_NOTES}")

    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        return context - self.new_tokens

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        super().check(loaded, context, seed)
        if context <= self.new_tokens:
            raise ContextError(
                f"context {context} leaves no prompt before the {self.new_tokens} tokens that are written; raise "
                "context or lower task.new_tokens"
            )

    def rules(self) -> dict[str, Any]:
        return {
            "template": "the text alone, after the tokenizer's own opening tokens",
            "metric": "top-1 agreement and KL(dense || method) on dense attention's greedy continuation",
            "truncation": "the prompt is cut on the left",
            "stop": [self.new_tokens],
            "compress_at": "context",
        }

    @torch.no_grad()
    def run(
        self,
        open_session: OpenSession,
        open_dense: OpenSession,
        loaded: LoadedModel,
        context: int,
        seed: int,
        *,
        chunk: int | None = None,
        progress: Progress = lambda _: None,
    ) -> Quality:
        self.check(loaded, context, seed)
        states = States()
        results: list[dict[str, Any]] = []
        prompt = self.prompt_tokens(context)
        for done, text in enumerate(self.texts):
            progress(f"{self.name} {done + 1}/{len(self.texts)}")
            # What follows the passage in the text is not read: one token is asked for, and left.
            sample = passage(loaded.tokenizer, text, prompt + 1, 1, 0, 1, seed)
            ids = torch.tensor([sample.context], device=loaded.model.device)
            with open_dense() as dense, open_session() as session:
                for each in (dense, session):
                    each.prefill(ids, chunk=chunk)
                states.sealed(session)
                live: list[int] = []
                values: list[Tensor] = []
                for step, loss in enumerate(_side_by_side(dense, session, self.new_tokens), 1):
                    values.append(loss)
                    if step % (self.new_tokens // _NOTES) == 0:
                        live.append(session.state_bytes().payload)
                states.scored(session)
            results.append(
                {
                    "text": text,
                    "revision": sample.revision,
                    "place": sample.place,
                    "prompt_tokens": prompt,
                    "scored_tokens": self.new_tokens,
                    "block_tokens": self.block,
                    "live_payload": live,
                    **summary(torch.cat(values, 1), self.block),
                }
            )
        data = ",".join(f"{r['text']}-{r['revision'][:12]}" for r in results)
        return self.quality(results, scores(results, seed), states, tokenizer=loaded.tokenizer, seed=seed, data=data)


def _side_by_side(dense: Session, session: Session, n: int) -> Iterator[Tensor]:
    """Losses [3, 1] of `n` tokens that dense attention chooses and both are given."""
    for _ in range(n):
        assert dense.last_logits is not None
        assert session.last_logits is not None
        token = dense.last_logits.argmax(-1)
        loss = losses(session.last_logits.float(), dense.last_logits.float().log_softmax(-1), token)
        for each in (dense, session):
            each.decode(token[:, None])
        yield loss
