"""What a task is: parameters, a version, a hash of how it scores, and `run`, which gives a Quality."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners.budget import At16Bits, at_16_bits
from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.record import Quality, QualityState, Score
from kvfrontier.runners.tasks.tokens import tokenizer_hash

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel
    from kvfrontier.runners.session import Session

OpenSession = Callable[[], "Session"]
Progress = Callable[[str], None]
Tokenizer = Callable[[], Any]


@dataclass(frozen=True)
class Prompt:
    """What one sample gives to the model.

    pieces      token ids by name, in the order in which they are given
    facts       what is known of the sample beside them: the right answers, where they stand
    new_tokens  how many tokens may be generated after them
    """

    pieces: dict[str, list[int]]
    facts: dict[str, Any]
    new_tokens: int = 0


@dataclass(frozen=True)
class Task(ABC):
    """Base of all tasks: a frozen dataclass whose fields are the task's parameters.

    A task is one file in this folder with one subclass, and one YAML in configs/task. Raise `version` whenever the
    same parameters would give other prompts or other scores.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    #: The score that figures and fronts use.
    primary: ClassVar[str]
    #: One line for `kvfrontier list tasks`.
    summary: ClassVar[str]
    #: Parameters that say how many samples there are, and nothing of what a sample is.
    size: ClassVar[tuple[str, ...]] = ("samples",)
    #: Whether prompts are as long as they are, so that a budget is solved for each: `run` then takes besides `method`,
    #: the method for a prompt of so many tokens.
    own_lengths: ClassVar[bool] = False

    @property
    def chance(self) -> float | None:
        """The primary score of an answer that is guessed without reading the context; None where guessing means
        nothing."""
        return None

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """How a score comes about, as plain data: template, metric, truncation, stop rule and compress_at."""

    @abstractmethod
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
        """Score the method of `open_session` at `context` tokens.

        `open_session` and `open_dense` give a fresh session of the method and of dense attention, each a context
        manager. `context` counts prompt tokens, template and question included, and what may be generated. `chunk` is
        the prefill's chunk in tokens, or None for one shot. Raises UsageError where the context cannot hold the task.
        """

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        """Raise UsageError where the context cannot hold the task, or the model the context. Asked for every cell
        before a sweep begins, so it is cheap."""
        check_context(context, loaded)

    @abstractmethod
    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        """Of `context`, the tokens that are prompt: what a budget is a budget for. `tokenizer` gives the model's, where
        that has a say; without it no more is taken off than what is generated."""

    def quality(
        self,
        results: Sequence[dict[str, Any]],
        scores: Mapping[str, Score],
        states: States,
        *,
        tokenizer: Any,
        seed: int,
        data: str,
    ) -> Quality:
        """What `run` gives back: scores over `results`, one a sample, and what the states held. `data` names the data
        that the samples were made of, with its revision."""
        return Quality(
            status="ok",
            repetitions=1,
            task=self.name,
            task_version=self.version,
            task_hash=self.hash(),
            sample_set=sample_set(len(results), seed, tokenizer_hash(tokenizer), data),
            primary=self.primary,
            scores=dict(scores),
            samples=tuple(results),
            state=states.mean(),
            chance=self.chance,
        )

    def prompt(self, tokenizer: Any, context: int, seed: int, index: int) -> Prompt:
        """Exactly what sample `index` gives to the model. Raises UsageError where there is no such sample, and where
        the model writes what it is given itself."""
        raise UsageError(f"task {self.name} has no prompts that are known before it runs")

    def parameters(self) -> dict[str, Any]:
        """The task's configuration, defaults filled in: `make(task.parameters())` is the task again."""
        return {
            "name": self.name,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()},
        }

    def hash(self) -> str:
        """16 hex digits; two scores may stand in one column where it is equal. What decides it are the task's name
        and version, its rules, and its parameters but for the number of samples."""
        settings = {k: v for k, v in self.parameters().items() if k not in self.size}
        content = {"version": self.version, "settings": settings, "rules": self.rules()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class States:
    """What the states of a task's sessions held, sample by sample: `sealed` where the prompt ended, `scored` where
    the last token had been scored."""

    def __init__(self) -> None:
        self._sealed: list[tuple[int, int, At16Bits]] = []
        self._final: list[int] = []

    def sealed(self, session: Session) -> None:
        """`session`, of one row, has just been sealed."""
        tokens = session.n_tokens
        self._sealed.append((tokens, session.state_bytes().payload, at_16_bits(session, 1, tokens)))

    def scored(self, session: Session) -> None:
        """`session` has seen its last token."""
        self._final.append(session.state_bytes().payload)

    def mean(self) -> QualityState:
        """Over the samples. The share is of sums: every byte counts the same."""
        tokens, payloads, at16 = zip(*self._sealed, strict=True)
        dense = sum(a.dense for a in at16)
        return QualityState(
            sealed_tokens=fmean(tokens),
            sealed_payload=fmean(payloads),
            share16=sum(a.method for a in at16) / dense if dense else None,
            final_payload=fmean(self._final),
        )


def sample_set(n: int, seed: int, tokenizer: str, data: str) -> str:
    """Which samples: two scores may be compared sample by sample where it is equal (and the context is)."""
    return f"n={n} seed={seed} tokenizer={tokenizer} data={data}"


def check_context(context: int, loaded: LoadedModel) -> None:
    """UsageError where a context is longer than the model's positions."""
    if context > loaded.max_context:
        raise ContextError(
            f"context {context} is longer than the {loaded.max_context} positions of {loaded.name}; lower context"
        )
