"""Tasks that ask a question about a context and match the answer: the loop they share.

A task of this kind says what its samples are (`sample`) and which words are right (`Sample.targets`).
"""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from kvfrontier.runners.decoding import Sampling, StopStrings
from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.intervals import bootstrap, wilson
from kvfrontier.runners.record import Quality, Score
from kvfrontier.runners.tasks.task import OpenSession, Progress, Prompt, States, Task, Tokenizer
from kvfrontier.runners.tasks.tokens import chat_halves, encode, encode_inside, opening_ids, stop_ids

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel
    from kvfrontier.runners.session import Session

CompressAt = Literal["context", "prompt"]


@dataclass(frozen=True)
class Sample:
    """One question. `context` and `question` are token ids; the prompt is the one after the other, wherever the
    method compresses. `targets` are the right answers, `facts` is kept in the record, and `number` counts samples from
    0."""

    context: list[int]
    question: list[int]
    targets: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    @property
    def ids(self) -> list[int]:
        return self.context + self.question


@dataclass(frozen=True)
class AnswerTask(Task):
    """samples        how many questions, each about a context of its own
    compress_at    "context": the context is prefilled and sealed, then the question decoded. "prompt": the question
                   is prefilled too, so that a method which looks at queries sees it (query-aware)
    chat_template  the model's own chat template around the prompt, or none
    sampling       temperature, top_k, top_p and a seed of its own to answer by; null: greedily
    """

    samples: int = 8
    compress_at: CompressAt = "context"
    chat_template: bool = True
    # Keywords alone, so that the parameters of each task keep their places.
    sampling: Sampling | None = field(default=None, kw_only=True)

    primary: ClassVar[str] = "accuracy"
    #: Under which name a result keeps what was generated.
    said: ClassVar[str] = "generation"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: at least one is needed")

    @property
    def chance(self) -> float | None:
        return 0.0

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer besides its length (tokens.stop_ids)."""
        return ("eos", "newline")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer, and are no part of it."""
        return ()

    @property
    @abstractmethod
    def answer_tokens(self) -> int:
        """How many tokens may be generated; part of the context."""

    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        return context - self.answer_tokens

    @abstractmethod
    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        """Sample number `index`: at most `context - answer_tokens` tokens, drawn by `rng` alone. Raises UsageError
        where the context cannot hold it."""

    @abstractmethod
    def data(self) -> str:
        """Name and revision of the data that samples are made of."""

    def frame(
        self, tokenizer: Any, before: str, after: str, answer: str, bare_break: str = ""
    ) -> tuple[list[int], list[int]]:
        """Ids of what comes before and after a text that is asked about, in the model's chat template or bare.

        The second half ends with `answer`, the words that the model's own answer is begun with. Without a template
        `bare_break` stands between question and answer.
        """
        if self.chat_template:
            before, after = chat_halves(tokenizer, before, after)
            head = encode(tokenizer, before)
        else:
            after += bare_break
            head = opening_ids(tokenizer) + encode(tokenizer, before)
        return head, encode_inside(tokenizer, [after + answer])[0]

    def spread(self, index: int) -> float:
        """The depth of sample `index` where depths go evenly from 0 to 1 over the samples."""
        return index / (self.samples - 1) if self.samples > 1 else 0.5

    def room(self, context: int, *pieces: list[int]) -> int:
        """Tokens of `context` that the answer and these pieces leave. Raises UsageError where they leave none."""
        room = context - self.answer_tokens - sum(map(len, pieces))
        if room < 0:
            raise ContextError(
                f"context {context} is too short: template, facts and answer alone take {context - room} tokens; "
                "raise context"
            )
        return room

    def grade(self, text: Any, targets: tuple[str, ...]) -> dict[str, Any]:
        """What is known of what was generated (a text, unless a task says otherwise): exact match of all targets, and
        the share of them that it names."""
        return grade(text, targets)

    def graded(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A sample's result up to what was generated, and the grade of that; what follows it is an earlier one."""
        keys = list(result)
        known = {key: result[key] for key in keys[: keys.index(self.said) + 1]}
        return known | self.judge(known[self.said], tuple(known["targets"]), known)

    def judge(self, text: Any, targets: tuple[Any, ...], facts: Mapping[str, Any]) -> dict[str, Any]:
        """The grade of what was generated, where scoring needs to know more of a sample than its right answers."""
        return self.grade(text, targets)

    def score(self, results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
        """Scores over the graded samples, by name."""
        return _scores(results, seed)

    def ask(
        self, session: Session, sample: Sample, tokenizer: Any, chunk: int | None, states: States
    ) -> dict[str, Any]:
        """Ask a session that has seen nothing; what it answered, and how well. `states` is told what was held."""
        read(session, sample, self.compress_at, chunk)
        states.sealed(session)
        if self.compress_at == "context":
            session.decode(row(sample.question, session))
        text = self.generate(session, tokenizer, sample.number)
        states.scored(session)
        return {"generation": text, **self.judge(text, sample.targets, sample.facts)}

    def generate(self, session: Session, tokenizer: Any, number: int) -> str:
        """What a session of one row, that has read a prompt, answers to sample `number`."""
        how: dict[str, Any] = {"choose": self.sampling.start([number])} if self.sampling else {}
        strings = StopStrings(tokenizer, self.stop_strings)
        if strings.strings:
            how["ended"] = strings
        (generated,) = session.generate(self.answer_tokens, stop_ids=stop_ids(tokenizer, self.stop), **how)
        return strings.before(generated)

    def draw(self, tokenizer: Any, context: int, seed: int) -> list[Sample]:
        """All samples at one context. Sample i is the same whatever was drawn before it."""
        return [self.drawn(tokenizer, context, seed, i) for i in range(self.samples)]

    def drawn(self, tokenizer: Any, context: int, seed: int, index: int) -> Sample:
        """Sample `index`, as `seed` draws it."""
        return replace(self.sample(tokenizer, context, index, rng(self, seed, index)), number=index)

    def prompt(self, tokenizer: Any, context: int, seed: int, index: int) -> Prompt:
        if index >= self.samples:
            raise UsageError(f"sample={index}: there are {self.samples}, counted from 0; raise task.samples")
        sample = self.drawn(tokenizer, context, seed, index)
        return Prompt(self.pieces(sample), {**sample.facts, "targets": list(sample.targets)}, self.answer_tokens)

    def pieces(self, sample: Sample) -> dict[str, list[int]]:
        """What a sample gives to the model, by name and in order."""
        return {"context": sample.context, "question": sample.question}

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        super().check(loaded, context, seed)
        _check_samples(self, loaded.tokenizer, context, seed)

    def parameters(self) -> dict[str, Any]:
        # Greedy decoding is what there was before this could be chosen, and goes without saying.
        return {k: v for k, v in super().parameters().items() if k != "sampling" or v is not None}

    def rules(self) -> dict[str, Any]:
        strings = {"stop_strings": list(self.stop_strings)} if self.stop_strings else {}
        return {
            "metric": "exact match without punctuation around it; of several answers, all of them are named",
            "truncation": "none: the filler is chosen to fit",
            "stop": [*self.stop, self.answer_tokens],
            "compress_at": self.compress_at,
            **strings,
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
        tokenizer = loaded.tokenizer
        self.check(loaded, context, seed)
        results: list[dict[str, Any]] = []
        states = States()
        with open_session() as session:
            for i, sample in enumerate(self.draw(tokenizer, context, seed)):
                progress(f"{self.name} {i + 1}/{self.samples}")
                session.reset()
                results.append(
                    {
                        "prompt_tokens": len(sample.ids),
                        "question_tokens": len(sample.question),
                        **sample.facts,
                        "targets": list(sample.targets),
                        **self.ask(session, sample, tokenizer, chunk, states),
                    }
                )
        return self.quality(
            results, self.score(results, seed), states, tokenizer=tokenizer, seed=seed, data=self.data()
        )


#: Up to this many tokens all samples are made before a sweep begins; of longer ones, whose fixed parts are a small
#: share, the first alone.
_CHECKED_TOKENS = 8192


@lru_cache(maxsize=256)
def _check_samples(task: AnswerTask, tokenizer: Any, context: int, seed: int) -> None:
    """Raise UsageError where a context cannot hold a sample. Every method of a sweep asks the same again."""
    for i in range(task.samples if context <= _CHECKED_TOKENS else 1):
        task.drawn(tokenizer, context, seed, i)


def rng(task: Task, seed: int, index: int) -> random.Random:
    """What draws sample `index` of a task."""
    return random.Random(f"{task.name} {task.version} {seed} {index}")


def read(session: Session, sample: Sample, compress_at: CompressAt, chunk: int | None) -> None:
    """Let a session that has seen nothing read and seal what is compressed: the context, or the whole prompt."""
    session.prefill(row(sample.ids if compress_at == "prompt" else sample.context, session), chunk=chunk)


def row(ids: list[int], session: Session) -> torch.Tensor:
    """Token ids as a batch of one, [1, T], where the session's model is."""
    return torch.tensor([ids], device=session.model.device)


def answers(text: str) -> list[str]:
    """An answer's parts, without punctuation and numbering around them: ": 12, 7 and 9." is 12, 7, 9, and so are
    three lines "1. 12", "2. 7", "3. 9"."""
    parts = re.split(r",|\n|\band\b", text)
    bare = (re.sub(r"^\s*\d{1,2}[.)]\s+", "", part).strip(" \t\r.:;-*") for part in parts)
    return [part for part in bare if part]


def grade(text: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """`correct`: a single target is the whole answer; several are all among the answers. `recall`: the share of the
    targets among the answers."""
    said = answers(text)
    recall = sum(target in said for target in targets) / len(targets)
    return {"correct": said == list(targets) if len(targets) == 1 else recall == 1, "recall": recall}


def _scores(results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
    n = len(results)
    correct = sum(r["correct"] for r in results)
    low, high = wilson(correct, n)
    scores = {"accuracy": Score(value=correct / n, n=n, low=low, high=high, interval="wilson")}
    if any(len(r["targets"]) > 1 for r in results):
        recalls = [r["recall"] for r in results]
        low, high = bootstrap(recalls, seed=seed)
        scores["recall"] = Score(value=sum(recalls) / n, n=n, low=low, high=high, interval="bootstrap")
    return scores
