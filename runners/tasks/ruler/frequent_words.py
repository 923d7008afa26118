"""Frequent words: coded words whose counts follow a zeta distribution; the three most frequent are asked for."""

from __future__ import annotations

import math
import random
import string
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from kvfrontier.runners.errors import ContextError
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.ruler.task import RulerTask
from kvfrontier.runners.tasks.tokens import encode_inside

_LETTERS = 6
#: The most frequent word of all: noise, which is not asked for.
DOTS = "..."
_ASKED = 3


@dataclass(frozen=True)
class FrequentWords(RulerTask):
    """The three most frequent of many coded words.

    alpha   exponent of the zeta distribution: word k appears N k^-alpha / zeta(alpha) times, rounded down
    """

    alpha: float = 2.0

    name: ClassVar[str] = "ruler_fwe"
    version: ClassVar[int] = 1
    words: ClassVar[dict[str, str]] = {
        "before": "Read the following coded text and track the frequency of each coded word. Find the three most "
        "frequently appeared coded words.",
        "after": "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
        "frequently appeared words in the above coded text?",
        "answer": " Answer: According to the coded text above, the three most frequently appeared words are:",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 1:
            raise ValueError(f"alpha={self.alpha}: a zeta distribution needs more than 1")

    @property
    def answer_tokens(self) -> int:
        return 50

    def data(self) -> str:
        return "coded-1"

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        head, question = self.frame(tokenizer, self.words["before"], self.words["after"], self.words["answer"])
        room = self.room(context, head, question)
        vocabulary = {DOTS: None}
        # The official vocabulary: a fiftieth of the tokens that a prompt may have.
        while len(vocabulary) < max(_ASKED + 2, (context - self.answer_tokens) // 50):
            vocabulary["".join(rng.choices(string.ascii_lowercase, k=_LETTERS))] = None
        words = list(vocabulary)
        ids = encode_inside(tokenizer, [f" {word}" for word in words])
        counts = self._counts(np.array([len(i) for i in ids]), room)
        if counts[_ASKED] == counts[_ASKED + 1]:
            raise ContextError(f"context {context} is too short for frequencies to differ; raise context")
        text = [i for i, count in enumerate(counts) for _ in range(count)]
        rng.shuffle(text)
        return Sample(
            context=head + [token for i in text for token in ids[i]],
            question=question,
            targets=tuple(words[1 : _ASKED + 1]),
            facts={"vocabulary": len(words), "counts": [int(count) for count in counts[: _ASKED + 2]]},
        )

    def _counts(self, lengths: np.ndarray[Any, Any], room: int) -> list[int]:
        """How often each word appears: for the largest N, a real number, whose words take no more than `room` tokens.
        Counts go up one at a time with N, so that the text is short by less than a word."""
        share = np.arange(1, len(lengths) + 1) ** -self.alpha / float(
            torch.special.zeta(torch.tensor(self.alpha, dtype=torch.float64), 1)
        )
        low, high = 0.0, 2.0 * room / share[0]
        while not math.isclose(low, high, rel_tol=1e-12, abs_tol=1e-9):
            middle = (low + high) / 2
            if (np.floor(middle * share) * lengths).sum() <= room:
                low = middle
            else:
                high = middle
        return np.floor(low * share).astype(int).tolist()
