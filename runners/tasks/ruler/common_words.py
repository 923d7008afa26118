"""Common words: a numbered list in which ten words appear far more often than the others."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

from kvfrontier.runners.errors import ContextError
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.ruler.task import RulerTask
from kvfrontier.runners.tasks.ruler.words import distinct, revision
from kvfrontier.runners.tasks.tokens import encode_inside

#: Below this context the official code repeats words less often, and shows a shorter example.
SHORT = 4096


@dataclass(frozen=True)
class CommonWords(RulerTask):
    """The ten most common words of a numbered list.

    common     how many words are common, and asked for
    repeats    how often each of them appears, from 4,096 tokens of context on (below: 6 times, others once)
    others     how often each other word appears
    """

    common: int = 10
    repeats: int = 30
    others: int = 3

    name: ClassVar[str] = "ruler_cwe"
    version: ClassVar[int] = 2
    words: ClassVar[dict[str, str]] = {
        "before": "Below is a numbered list of words. In these words, some appear more often than others. Memorize "
        "the ones that appear most often.\n",
        "after": "\nQuestion: What are the {n} most common words in the above list?",
        "answer": " Answer: The top {n} words that appear most often in the list are:",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        # The example that is shown has 20 words, or 40.
        if not 1 <= self.common < 20 or not 1 <= self.others < self.repeats:
            raise ValueError(f"common={self.common}, repeats={self.repeats}, others={self.others}: nothing stands out")

    @property
    def answer_tokens(self) -> int:
        return 120

    def data(self) -> str:
        return revision()

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        short = context < SHORT
        repeats, others = (6, 1) if short else (self.repeats, self.others)
        shown = self._example(*((20, 3, 1) if short else (40, 10, 3)), rng)
        head, question = self.frame(tokenizer, shown + "\n" + self.words["before"], *self._asked())
        room = self.room(context, head, question)

        # An entry takes the tokens of its number and of its word; the list has one entry for two tokens at most.
        numbers = _numbers(tokenizer, 1 << (room // 2).bit_length())
        ends = [0, *accumulate(map(len, numbers))]
        most = bisect_right(range(len(ends)), room, key=lambda n: ends[n] + n) // others
        words = distinct(most + self.common, rng)
        ids = dict(zip(words, encode_inside(tokenizer, [f" {word}" for word in words]), strict=True))
        common = words[: self.common]
        sizes = [0, *accumulate(others * len(ids[word]) for word in words[self.common :])]
        fixed = repeats * sum(len(ids[word]) for word in common)

        def total(n: int) -> int:
            """Tokens of the list with n other words."""
            return fixed + sizes[n] + ends[min(repeats * self.common + others * n, len(numbers))]

        n = bisect_right(range(len(sizes)), room, key=total) - 1
        if n < 1:
            raise ContextError(
                f"context {context} is too short for {self.common} words {repeats} times each; raise context"
            )
        entries = _shuffled(common, repeats, words[self.common : self.common + n], others, rng)
        body = [token for number, word in zip(numbers, entries, strict=False) for token in (*number, *ids[word])]
        return Sample(head + body, question, tuple(common), {"entries": len(entries), "words": self.common + n})

    def _example(self, n: int, repeats: int, others: int, rng: random.Random) -> str:
        words = distinct(n, rng)
        entries = _shuffled(words[: self.common], repeats, words[self.common :], others, rng)
        listed = " ".join(f"{i}. {word}" for i, word in enumerate(entries, 1))
        answer = " ".join(f"{i}. {word}" for i, word in enumerate(words[: self.common], 1))
        after, begun = self._asked()
        return f"{self.words['before']}{listed}{after}{begun} {answer}"

    def _asked(self) -> tuple[str, str]:
        return self.words["after"].format(n=self.common), self.words["answer"].format(n=self.common)


def _shuffled(
    common: Sequence[str], repeats: int, uncommon: Sequence[str], others: int, rng: random.Random
) -> list[str]:
    entries = [*common] * repeats + [*uncommon] * others
    rng.shuffle(entries)
    return entries


@lru_cache(maxsize=4)
def _numbers(tokenizer: Any, n: int) -> list[list[int]]:
    """Ids of " 1." to " n.", the first without the space."""
    return [encode_inside(tokenizer, ["1."])[0], *encode_inside(tokenizer, [f" {i}." for i in range(2, n + 1)])]
