"""Perplexity and agreement with dense attention on natural text, after the prompt was compressed.

The prompt is all but the last `scored` tokens. It is sealed, and those tokens are then given one after the other
(teacher-forced), so that a compressed cache shows its loss. On the same tokens, in the same pass,

    agreement   share of tokens where the method's most likely next token is dense attention's
    kl          mean KL(dense || method) of the next token's distribution, in nats
    nll         mean negative log-likelihood of the text's own token, in nats; perplexity = exp(nll)

Tokens within a text are correlated, so the intervals resample blocks of neighbours (block bootstrap), and `n` counts
blocks. They speak of other passages of these texts, not of other texts.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.intervals import bootstrap
from kvfrontier.runners.record import Quality, Score
from kvfrontier.runners.tasks.passages import Passage, passage
from kvfrontier.runners.tasks.task import OpenSession, Progress, Prompt, States, Task, Tokenizer

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel
    from kvfrontier.runners.session import Session


@dataclass(frozen=True)
class Perplexity(Task):
    """texts      names in runners.texts
    passages   how many passages of each text, each with a context of its own
    scored     tokens scored at the end of each passage; part of the context
    block      neighbouring tokens that the bootstrap resamples together
    """

    texts: tuple[str, ...] = ("hamlet", "paradise-lost")
    passages: int = 1
    scored: int = 256
    block: int = 32

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 1
    primary: ClassVar[str] = "agreement"
    summary: ClassVar[str] = "perplexity, KL and top-1 agreement with dense attention on the last tokens of a text"
    size: ClassVar[tuple[str, ...]] = ("passages", "block")
    #: Whether the prompt is sealed before its continuation is scored.
    seal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts is empty: name at least one")
        if self.passages < 1:
            raise ValueError(f"passages={self.passages}: at least one is needed")
        if self.block < 1 or self.scored < 1 or self.scored % self.block:
            raise ValueError(f"scored={self.scored} is not a multiple of block={self.block}")

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        super().check(loaded, context, seed)
        if context <= self.scored:
            raise ContextError(
                f"context {context} leaves nothing before the {self.scored} tokens that are scored; "
                "raise context or lower task.scored"
            )

    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        return context - self.scored

    def prompt(self, tokenizer: Any, context: int, seed: int, index: int) -> Prompt:
        count = len(self.texts) * self.passages
        if index >= count:
            raise UsageError(f"sample={index}: there are {count}, counted from 0; raise task.passages")
        text, place = self.texts[index // self.passages], index % self.passages
        found = passage(tokenizer, text, context, self.scored, place, self.passages, seed)
        pieces = {"context": found.context, "scored": found.scored}
        return Prompt(pieces, {"text": text, "revision": found.revision, "place": found.place})

    def rules(self) -> dict[str, Any]:
        return {
            "template": "the text alone, after the tokenizer's own opening tokens",
            "metric": "top-1 agreement and KL(dense || method), mean negative log-likelihood",
            "truncation": "the context is cut on the left",
            "stop": "none: teacher-forced",
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
        results: list[dict[str, Any]] = []
        states = States()
        wanted = [(text, i) for text in self.texts for i in range(self.passages)]
        for done, (text, index) in enumerate(wanted):
            progress(f"{self.name} {done + 1}/{len(wanted)}")
            sample = passage(loaded.tokenizer, text, context, self.scored, index, self.passages, seed)
            dense = dense_log_probabilities(open_dense, loaded, sample, chunk)
            pieces = forced(open_session, loaded, sample, chunk, states, seal=self.seal)
            results.append(
                {
                    "text": text,
                    "revision": sample.revision,
                    "place": sample.place,
                    "prompt_tokens": len(sample.context),
                    "scored_tokens": len(sample.scored),
                    "block_tokens": self.block,
                    **compare(pieces, dense, sample.scored, self.block),
                }
            )
        data = ",".join(sorted({f"{r['text']}-{r['revision'][:12]}" for r in results}))
        return self.quality(results, scores(results, seed), states, tokenizer=loaded.tokenizer, seed=seed, data=data)


def forced(
    open_session: OpenSession,
    loaded: LoadedModel,
    sample: Passage,
    chunk: int | None,
    states: States | None = None,
    *,
    seal: bool = True,
) -> Iterator[Tensor]:
    """Logits [t, V], float32, that predict the scored tokens, t at a time, after the context was read and sealed.
    `states` is told what was held."""
    device = loaded.model.device
    with open_session() as session:
        if not seal:
            require_bounded(session)
        session.prefill(torch.tensor([sample.context], device=device), chunk=chunk, seal=seal)
        if states is not None:
            states.sealed(session)
        for logits in session.forced(torch.tensor([sample.scored], device=device)):
            yield logits[0].float()
        if states is not None:
            states.scored(session)


def require_bounded(session: Session) -> None:
    """Raise UsageError where a layer's method does not stay bounded while it reads."""
    if not all(method.bounded for method in session.methods):
        raise UsageError(
            f"{StreamingPerplexity.name} never ends the prompt, and this method stays bounded only from there on, if "
            "at all; take task=perplexity"
        )


def compare(pieces: Iterable[Tensor], dense: Tensor, scored: Sequence[int], block: int) -> dict[str, Any]:
    """Means over all scored tokens, and over each block of them, of nll, kl and agreement.

    `pieces` are logits [t, V] that predict `scored`, in order; `dense` [S, V] holds dense attention's log-probabilities
    of the same. No more than one piece is worked on at a time.
    """
    rows: list[Tensor] = []
    done = 0
    for logits in pieces:
        n = len(logits)
        own = torch.tensor(scored[done : done + n], device=logits.device)
        rows.append(losses(logits, dense[done : done + n].to(logits.device), own))
        done += n
    if done != len(scored):
        raise RuntimeError(f"{done} predictions came for {len(scored)} tokens")
    return summary(torch.cat(rows, dim=1), block)


_SCORES = ("nll", "kl", "agreement")


def losses(logits: Tensor, dense: Tensor, own: Tensor) -> Tensor:
    """nll, kl and agreement of each of t tokens, [3, t]: `logits` [t, V] against dense attention's log-probabilities
    `dense` [t, V], and the tokens `own` [t] that came."""
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(-1, own[:, None])[:, 0]
    # Never negative in truth; rounding may leave it so where the two agree.
    kl = (dense.exp() * (dense - log_p)).sum(-1).clamp_min(0)
    agreement = log_p.argmax(-1) == dense.argmax(-1)
    return torch.stack([nll.double(), kl.double(), agreement.double()]).cpu()


def summary(values: Tensor, block: int) -> dict[str, Any]:
    """Means of `losses` [3, S] over all tokens, and over each block of them."""
    blocks = values.unflatten(1, (-1, block)).mean(-1)
    means = dict(zip(_SCORES, values.mean(1).tolist(), strict=True))
    return means | {"blocks": dict(zip(_SCORES, blocks.tolist(), strict=True))}


def scores(results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
    """Of several texts' `summary`, with intervals over all their blocks."""
    blocks = {name: [value for r in results for value in r["blocks"][name]] for name in _SCORES}

    def score(name: str, transform: Callable[[float], float] = float, **about: Any) -> Score:
        values = blocks[name]
        low, high = bootstrap(values, transform, seed=seed)
        value = transform(sum(values) / len(values))
        return Score(value=value, n=len(values), low=low, high=high, interval="bootstrap", **about)

    return {
        "agreement": score("agreement"),
        "perplexity": score("nll", math.exp, higher_is_better=False),
        "nll": score("nll", higher_is_better=False, unit="nats"),
        "kl": score("kl", higher_is_better=False, unit="nats"),
    }


@dataclass(frozen=True)
class StreamingPerplexity(Perplexity):
    """Perplexity on a stream whose prompt never ends: for methods that stay bounded while they read."""

    name: ClassVar[str] = "streaming_perplexity"
    summary: ClassVar[str] = "perplexity of a text without an end of the prompt, for methods that stay bounded"
    seal: ClassVar[bool] = False

    def rules(self) -> dict[str, Any]:
        return super().rules() | {"compress_at": "never"}


class RecentTensors:
    """Tensors by key, the least recently used dropped first so that all together stay within `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor under `key`, made where it is not held. One that alone exceeds the limit is not kept."""
        if key not in self._held:
            self._held[key] = make()
        self._held.move_to_end(key)
        tensor = self._held[key]
        while sum(held.nbytes for held in self._held.values()) > self.limit:
            self._held.popitem(last=False)
        return tensor

    def clear(self) -> None:
        """Drop all."""
        self._held.clear()


#: What dense attention says to a passage is asked again by every method of a sweep. Two passages at three contexts
#: of a 49k vocabulary take 300 MB; larger vocabularies are recomputed rather than held.
_DENSE = RecentTensors(limit=512 * 2**20)


def forget_references() -> None:
    """Let go of what dense attention said, as a new process begins."""
    _DENSE.clear()


def dense_log_probabilities(open_dense: OpenSession, loaded: LoadedModel, sample: Passage, chunk: int | None) -> Tensor:
    """Dense attention's log-probabilities [S, V] at the scored tokens, float32, in host memory; kept by this process.

    In full precision, since KL(dense || dense) must be 0.
    """

    def run() -> Tensor:
        return torch.cat([logits.log_softmax(-1).cpu() for logits in forced(open_dense, loaded, sample, chunk)])

    model = [loaded.name, loaded.revision, str(loaded.model.dtype), str(loaded.model.device)]
    key = hashlib.sha256(repr([*model, sample.context, sample.scored, chunk]).encode()).hexdigest()
    return _DENSE.get(key, run)
