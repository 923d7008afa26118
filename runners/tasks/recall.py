"""Exact recall of what nothing helps to guess: a value of a JSON object by its key, neighbours of a list of UUIDs."""

from __future__ import annotations

import json
import random
from abc import abstractmethod
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from kvfrontier.runners.errors import ContextError
from kvfrontier.runners.tasks.answer import AnswerTask, Sample
from kvfrontier.runners.tasks.ruler.filler import drawn, units
from kvfrontier.runners.tasks.ruler.words import draw
from kvfrontier.runners.tasks.tokens import encode_inside


@dataclass(frozen=True)
class RecallTask(AnswerTask):
    """A list of lines that fills the context, and a question about some of them.

    depth   where in the list the first line that is asked for stands, from 0 (its beginning) to 1 (its end), or
            "even": spread over the samples from 0 to 1
    """

    depth: float | str = "even"

    words: ClassVar[dict[str, str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth != "even" and not (isinstance(self.depth, (int, float)) and 0 <= self.depth <= 1):
            raise ValueError(f"depth={self.depth}: give a number from 0 to 1, or even")

    @abstractmethod
    def line(self, number: int, rng: random.Random) -> str:
        """A line of the list, numbered from 1, with the line's end before it."""

    @abstractmethod
    def asked(self, lines: list[str], depth: float) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """The question, its answers and what is kept in the record, about lines from `depth` on."""

    @property
    def stop(self) -> tuple[str, ...]:
        return ("eos",)

    def data(self) -> str:
        return "uuids-1"

    def grade(self, text: str, targets: tuple[str, ...]) -> dict[str, Any]:
        """`recall`: the share of the targets that stand in the answer, letter by letter; `correct`: all of them."""
        recall = sum(target in text for target in targets) / len(targets)
        return {"correct": recall == 1, "recall": recall}

    def rules(self) -> dict[str, Any]:
        metric = "the answer contains the target; of several, all of them"
        return super().rules() | {
            "metric": metric,
            "template": dict(self.words),
            "line": self.line(1, random.Random(0)),
        }

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        depth = self.spread(index) if isinstance(self.depth, str) else self.depth
        closing = encode_inside(tokenizer, [self.words["closing"]])[0] if self.words["closing"] else []
        numbers = count(1)
        source = drawn(lambda rng: self.line(next(numbers), rng), rng)
        lines = units(tokenizer, source, "", self.room(context, closing))
        # How long the question is depends on what is asked for, and that on the lines that there are.
        while len(lines) >= self.least:
            query, targets, facts = self.asked([line.text for line in lines], depth)
            after, answer = (self.words[part].replace("{query}", query) for part in ("after", "answer"))
            head, question = self.frame(tokenizer, self.words["before"], after, answer, bare_break="\n")
            ids = [*head, *(token for line in lines for token in line.ids), *closing]
            if len(ids) + len(question) <= self.prompt_tokens(context):
                return Sample(ids, question, targets, {"depth": depth, "lines": len(lines), **facts})
            lines.pop()
        raise ContextError(f"context {context} is too short for {self.least} lines and their question; raise context")

    @property
    def least(self) -> int:
        """Lines that a question is about."""
        return 1


@dataclass(frozen=True)
class KeyValueJson(RecallTask):
    """The value of one key of a JSON object of UUIDs ("Lost in the Middle", Liu et al. 2023, arXiv 2307.03172, section
    3.1, whose words these are)."""

    name: ClassVar[str] = "kv_json"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "the value of one key of a JSON object of UUIDs (Lost in the Middle)"
    words: ClassVar[dict[str, str]] = {
        "before": "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{",
        "closing": "}",
        "after": '\n\nKey: "{query}"',
        "answer": "Corresponding value:",
    }

    @property
    def answer_tokens(self) -> int:
        return 64

    def line(self, number: int, rng: random.Random) -> str:
        key, value = draw("uuids", rng), draw("uuids", rng)
        begin = "" if number == 1 else ",\n "
        return f'{begin}"{key}": "{value}"'

    def asked(self, lines: list[str], depth: float) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        place = round(depth * (len(lines) - 1))
        ((key, value),) = json.loads("{" + lines[place].lstrip(",\n ") + "}").items()
        return key, (value,), {"key": key, "line": place + 1}


@dataclass(frozen=True)
class UuidList(RecallTask):
    """Some neighbours of a numbered list of UUIDs, copied.

    items   how many of them
    """

    items: int = 3

    name: ClassVar[str] = "uuid_list"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "neighbours of a numbered list of UUIDs, copied exactly"
    words: ClassVar[dict[str, str]] = {
        "before": "Below is a numbered list of identifiers. Memorize it: some of them must be copied exactly.",
        "closing": "",
        "after": "\n\nCopy the identifiers {query} of the list, in order.",
        "answer": "The identifiers {query} are:",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items < 2:
            raise ValueError(f"items={self.items}: give at least 2")

    @property
    def least(self) -> int:
        return self.items

    @property
    def answer_tokens(self) -> int:
        # 36 characters, at worst a token each, and its number.
        return 44 * self.items

    def line(self, number: int, rng: random.Random) -> str:
        return f"\n{number}. {draw('uuids', rng)}"

    def asked(self, lines: list[str], depth: float) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        first = round(depth * (len(lines) - self.items))
        chosen = [line.strip().split(". ") for line in lines[first : first + self.items]]
        return f"{chosen[0][0]} to {chosen[-1][0]}", tuple(uuid for _, uuid in chosen), {"line": first + 1}
