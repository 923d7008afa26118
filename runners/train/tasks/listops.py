"""ListOps (Nangia & Bowman 2018, arXiv:1804.06028; in Long Range Arena, Tay et al. 2020, arXiv:2011.04006): nested
lists of digits under MAX, MIN, MEDIAN and SUM modulo 10, whose value, a digit, is asked at the end.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]  ->  5
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, ignore

#: Tokens: ten digits, padding, what asks for the value, the end of a list, and the beginnings of four kinds of list.
PAD, ASK, CLOSE, OPEN = 10, 11, 12, 13
OPERATORS: tuple[Callable[[list[int]], int], ...] = (
    max,
    min,
    lambda digits: int(statistics.median(digits)),
    lambda digits: sum(digits) % 10,
)


@dataclass(frozen=True, kw_only=True)
class ListOps(TrainedTask):
    """depth: of nesting, at most; arguments of a list, at most (10 and 10 in Long Range Arena, at 500 to 2,000 tokens).

    A list is drawn as there: each argument is a digit with probability 3/4. Lists of more than the length, or of less
    than half of it, are drawn again; the rest is padding before the list.
    """

    train: tuple[Shape, ...] = ({"length": 64, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64},)
    depth: int = 10
    arguments: int = 10

    name: ClassVar[str] = "listops"
    summary: ClassVar[str] = "The value of nested lists under MAX, MIN, MEDIAN and SUM modulo 10."

    @property
    def tokens(self) -> int:
        return OPEN + len(OPERATORS)

    def check(self, shape: Mapping[str, int]) -> None:
        if self.depth < 1 or self.arguments < 2 or shape["length"] < 8:
            raise ValueError("depth must be at least 1, arguments at least 2, and a text 8 tokens")
        if self.depth == 1 and shape["length"] > 2 * (self.arguments + 4):
            raise ValueError(f"lists of depth 1 do not fill half of {shape['length']} tokens; raise depth or arguments")

    def chance(self, shape: Mapping[str, int]) -> float:
        return 0.1

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of lists whose value is the most likely token", "digit": 0.75}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T = shape["length"]
        draws = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        ids, labels = torch.full((n, T), PAD), ignore(n, T)
        for row in range(n):
            tokens: list[int] = []
            value = 0
            while not T // 2 <= len(tokens) + 2 <= T:
                tokens = []
                value = self._list(draws, tokens, self.depth, T)
            ids[row, T - 2 - len(tokens) :] = torch.tensor([*tokens, ASK, value])
            labels[row, -2] = value
        return Batch(ids, labels, T - 1)

    def _list(self, draws: random.Random, tokens: list[int], depth: int, most: int) -> int:
        """Append a list to the tokens, and return its value; one that is too long already is cut short, and drawn again
        by the caller."""
        operator = draws.randrange(len(OPERATORS))
        tokens.append(OPEN + operator)
        digits = []
        for _ in range(draws.randint(2, self.arguments)):
            if len(tokens) > most:
                break
            if depth > 1 and draws.random() > 0.75:
                digits.append(self._list(draws, tokens, depth - 1, most))
            else:
                digits.append(draws.randrange(10))
                tokens.append(digits[-1])
        tokens.append(CLOSE)
        return OPERATORS[operator](digits or [0])
