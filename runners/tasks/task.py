"""What a task is: parameters, a version, a hash of how it scores, and `run`, which gives a Quality."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Quality

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel
    from kvfrontier.runners.session import Session

OpenSession = Callable[[], "Session"]
Progress = Callable[[str], None]


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

    def check(self, loaded: LoadedModel, context: int) -> None:
        """Raise UsageError where the context cannot hold the task, or the model the context. Asked for every cell
        before a sweep begins, so it is cheap."""
        check_context(context, loaded)

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


def sample_set(n: int, seed: int, tokenizer: str, data: str) -> str:
    """Which samples: two scores may be compared sample by sample where it is equal (and the context is)."""
    return f"n={n} seed={seed} tokenizer={tokenizer} data={data}"


def check_context(context: int, loaded: LoadedModel) -> None:
    """UsageError where a context is longer than the model's positions."""
    if context > loaded.max_context:
        raise UsageError(
            f"context {context} is longer than the {loaded.max_context} positions of {loaded.name}; lower context"
        )
