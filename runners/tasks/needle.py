"""Needle in a haystack: numbers hidden at a depth of a long text, asked for by their keys.

Words after RULER's niah tasks (Hsieh et al. 2024, arXiv 2404.06654), which place the answer's beginning in the
prompt, so that a model that was never tuned to answer briefly can be scored by exact match.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal

from kvfrontier.runners.tasks.answer import AnswerTask, Sample
from kvfrontier.runners.tasks.haystack import between, fill
from kvfrontier.runners.tasks.haystack import revision as haystack_revision
from kvfrontier.runners.tasks.tokens import encode_inside

#: One number is asked for in the singular, as in RULER.
ONE = {
    "introduction": "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n",
    "question": "\nWhat is the special magic number for {keys} mentioned in the provided text?",
    "answer": "The special magic number for {keys} mentioned in the provided text is",
}
SEVERAL = {
    "introduction": "Some special magic numbers are hidden within the following text. Make sure to memorize them. "
    "I will quiz you about the numbers afterwards.\n",
    "question": "\nWhat are all the special magic numbers for {keys} mentioned in the provided text?",
    "answer": "The special magic numbers for {keys} mentioned in the provided text are",
}
NEEDLE = " One of the special magic numbers for {key} is: {value}."

# fmt: off
ADJECTIVES = [
    "amber", "brave", "calm", "dusty", "eager", "faint", "gentle", "hollow",
    "ivory", "jolly", "keen", "lucky", "mellow", "narrow", "odd", "plain",
]
NOUNS = [
    "anchor", "basket", "candle", "donkey", "engine", "feather", "garden", "hammer",
    "island", "jacket", "kettle", "ladder", "magnet", "needle", "orchard", "pillow",
]
# fmt: on
_DIGITS = 7


@dataclass(frozen=True)
class Needle(AnswerTask):
    """depth      where the first needle is, from 0 (the haystack's beginning) to 1 (its end), or "even": spread over
                  the samples from 0 to 1. Further needles fall anywhere
    haystack   "noise", or the name of a text in runners.texts
    keys       how many keys are hidden
    values     how many numbers each key has
    retrieve   "one": the first key's numbers are asked for, the others distract. "all": every key's
    """

    depth: float | Literal["even"] = "even"
    haystack: str = "noise"
    keys: int = 1
    values: int = 1
    retrieve: Literal["one", "all"] = "one"

    name: ClassVar[str] = "needle"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "numbers hidden in a long text, asked for by their keys"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth != "even" and not 0 <= self.depth <= 1:
            raise ValueError(f"depth={self.depth}: give a number from 0 to 1, or even")
        if not 1 <= self.keys <= len(ADJECTIVES) * len(NOUNS):
            raise ValueError(f"keys={self.keys}: give 1 to {len(ADJECTIVES) * len(NOUNS)}")
        if self.values < 1:
            raise ValueError(f"values={self.values}: at least one is needed")

    @property
    def asked(self) -> int:
        """Keys that the question names."""
        return self.keys if self.retrieve == "all" else 1

    @property
    def _words(self) -> dict[str, str]:
        return ONE if self.asked * self.values == 1 else SEVERAL

    @property
    def stop(self) -> tuple[str, ...]:
        # Several numbers may be listed one to a line.
        return super().stop if self._words is ONE else ("eos",)

    @property
    def answer_tokens(self) -> int:
        # Seven digits, at worst a token each, with ", and" between numbers or a full stop and a line's end after them.
        return (_DIGITS + 5) * self.asked * self.values

    def data(self) -> str:
        return haystack_revision(self.haystack)

    def rules(self) -> dict[str, Any]:
        template = self._words | {"needle": NEEDLE, "keys": [ADJECTIVES, NOUNS], "digits": _DIGITS}
        return super().rules() | {"template": template}

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        keys, numbers = keys_and_numbers(rng, self.keys, self.keys * self.values)
        facts = [(key, numbers[i * self.values + j]) for i, key in enumerate(keys) for j in range(self.values)]
        needles = encode_inside(tokenizer, [NEEDLE.format(key=key, value=value) for key, value in facts])

        head, question = self._frame(tokenizer, keys[: self.asked])
        units = fill(tokenizer, self.haystack, self.room(context, head, question, *needles), rng)
        depths = [self._depth(index), *(rng.random() for _ in facts[1:])]
        hidden, places = hide(units, needles, depths)
        return Sample(
            context=head + hidden,
            question=question,
            targets=tuple(numbers[: self.asked * self.values]),
            facts={
                "depth": depths[0],
                "positions": [len(head) + place for place in places],
                "keys": keys[: self.asked],
            },
        )

    def _depth(self, index: int) -> float:
        return self.spread(index) if self.depth == "even" else self.depth

    def _frame(self, tokenizer: Any, keys: list[str]) -> tuple[list[int], list[int]]:
        """What comes before the haystack, and the question after it, up to where the answer begins."""
        named = " and ".join(", ".join(keys).rsplit(", ", 1))
        words = {part: text.format(keys=named) for part, text in self._words.items()}
        return self.frame(tokenizer, words["introduction"], words["question"], words["answer"], bare_break="\n")


def keys_and_numbers(rng: random.Random, keys: int, numbers: int) -> tuple[list[str], list[str]]:
    """So many different keys (an adjective and a noun), and so many different numbers of seven digits."""
    pairs = rng.sample([f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS], keys)
    return pairs, [str(n) for n in rng.sample(range(10 ** (_DIGITS - 1), 10**_DIGITS), numbers)]


def hide(units: list[list[int]], needles: list[list[int]], depths: list[float]) -> tuple[list[int], list[int]]:
    """The haystack with each needle between two units, nearest to its depth in tokens; and where each begins."""
    starts = [0, *accumulate(map(len, units))]
    gaps = [min(range(len(starts)), key=lambda i, d=d: abs(starts[i] - d * starts[-1])) for d in depths]
    return between(units, needles, gaps)
