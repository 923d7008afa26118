"""What a model is trained on and asked: texts of token ids, and at some places the token that should come next."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import content_hash

#: A label where nothing is asked.
IGNORED = -100

#: What a text of a task is like: its length and what else the task wants to know (`pairs`).
Shape = dict[str, int]


@dataclass(frozen=True)
class Batch:
    """Texts and what is asked of them.

    ids      [n, T] int64
    labels   [n, T] int64: the right next token at each place, IGNORED where nothing is asked
    prompt   tokens that stand before the first question: where an evaluation seals
    kinds    what each question is like, by a name and a value [n, T] (its distance), for scores by kind
    """

    ids: Tensor
    labels: Tensor
    prompt: int
    kinds: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainedTask(ABC):
    """Base of the trained track's tasks: a frozen dataclass whose fields are the task's parameters.

    train      shapes that are trained on, each with its number of `examples`; drawn once, seen once an epoch
    test       shapes that are asked, each of which makes a record
    examples   texts of each test
    lengths    also asked: texts so many times longer than the longest that is trained on, otherwise the same
    """

    train: tuple[Shape, ...]
    test: tuple[Shape, ...]
    examples: int = 1000
    lengths: tuple[int, ...] = ()

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str]
    metric: ClassVar[str] = "accuracy"
    #: Parameters that say how much is drawn, and nothing of what a text is.
    size: ClassVar[tuple[str, ...]] = ("train", "test", "examples", "lengths")
    #: What a shape must say beside `length`, and the least value.
    shape: ClassVar[dict[str, int]] = {}

    def __post_init__(self) -> None:
        if not self.train or not self.test:
            raise ValueError("nothing is trained on or asked; give task.train and task.test at least one shape each")
        for which, shapes, more in (("train", self.train, {"examples": 1}), ("test", self.test, {})):
            wanted = {"length": 2, **self.shape, **more}
            for shape in shapes:
                if set(shape) != set(wanted):
                    raise ValueError(f"{which}: a shape has {', '.join(wanted)}; got {', '.join(shape) or 'nothing'}")
                for key, least in wanted.items():
                    if shape[key] < least:
                        raise ValueError(f"{which}: {key} {shape[key]} must be at least {least}")
                self.check(shape)
        if self.examples < 1 or any(times < 1 for times in self.lengths):
            raise ValueError("examples and lengths must be at least 1")

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Size of the vocabulary."""

    @abstractmethod
    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        """n texts of a shape. The last place of a text asks nothing. `split`: train, valid or test, where a task has a
        corpus that it divides."""

    @abstractmethod
    def rules(self) -> dict[str, Any]:
        """How a text and its score come about, as plain data."""

    def check(self, shape: Mapping[str, int]) -> None:
        """Raise ValueError, with what to change, where a text cannot have this shape."""
        return

    def chance(self, shape: Mapping[str, int]) -> float | None:
        """The score of an answer that is guessed without reading; None where guessing means nothing."""
        return None

    @property
    def near_tokens(self) -> int | None:
        """Of a task that is asked for its long-range benefit: tokens that are scored with and without a far past."""
        return None

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is trained on."""
        return max(shape["length"] for shape in self.train)

    @property
    def exams(self) -> list[Shape]:
        """Every shape that is asked: those of `test`, and the hardest that is trained on at other lengths."""
        hardest = max(self.train, key=lambda shape: (shape["length"], *shape.values()))
        kept = {key: value for key, value in hardest.items() if key != "examples"}
        longer = [{**kept, "length": times * self.longest} for times in self.lengths]
        return [*self.test, *(shape for shape in longer if shape not in self.test)]

    def parameters(self) -> dict[str, Any]:
        """The task's configuration, defaults filled in."""
        plain = {k: [*map(dict, v)] if k in ("train", "test") else v for k, v in vars(self).items()}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}}

    def asked(self, shape: Mapping[str, int]) -> dict[str, Any]:
        """The parameters that decide what one test is, with its shape: what a record's cell keeps."""
        kept = {k: v for k, v in self.parameters().items() if k not in self.size}
        return {**kept, **shape, "version": self.version}

    def hash(self, shape: Mapping[str, int]) -> str:
        """16 hex digits; two scores may stand in one column where it is equal. The length is the context, which has a
        column of its own."""
        asked = {k: v for k, v in self.asked(shape).items() if k != "length"}
        return content_hash({"settings": asked, "rules": self.rules()})[:16]


def ignore(n: int, length: int) -> Tensor:
    """Labels [n, length] that ask nothing."""
    return torch.full((n, length), IGNORED)


def distinct(n: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """[n, count] numbers below `size`, no two of a row alike, all choices as likely."""
    if count > size:
        raise UsageError(f"{count} different ones are wanted of {size}; raise task.vocabulary or ask for fewer")
    return torch.rand(n, size, generator=generator).topk(count, dim=1).indices


def seeded(seed: int, what: str, index: Any) -> torch.Generator:
    """A generator of its own for each thing that is drawn."""
    return torch.Generator().manual_seed(int(content_hash([seed, what, index])[:12], 16))
