"""Passkey (Mohtashami & Jaggi 2023, arXiv:2305.16300): a number hidden in a text that repeats itself, asked at the
end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, ignore

#: Tokens: ten digits, what says that the number comes, what asks for it, then the filler's words.
DIGITS, TELL, ASK = 10, 10, 11


@dataclass(frozen=True, kw_only=True)
class Passkey(TrainedTask):
    """digits of the number; words: how many tokens the filler has, which repeats them in one order from a random one
    on."""

    train: tuple[Shape, ...] = ({"length": 64, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64},)
    digits: int = 5
    words: int = 24

    name: ClassVar[str] = "passkey"
    summary: ClassVar[str] = "A number hidden in a text that repeats itself, asked at its end."

    @property
    def tokens(self) -> int:
        return ASK + 1 + self.words

    def check(self, shape: Mapping[str, int]) -> None:
        if self.digits < 1 or self.words < 1 or shape["length"] < 2 * self.digits + 3:
            raise ValueError(
                f"a number of {self.digits} digits, told and asked, does not fit into {shape['length']} tokens; raise "
                "length or lower digits (at least 1, as words)"
            )

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / DIGITS

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of digits, each after the right ones before it"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T, m = shape["length"], self.digits
        start = torch.randint(self.words, (n, 1), generator=generator)
        ids = ASK + 1 + (start + torch.arange(T)) % self.words
        number = torch.randint(DIGITS, (n, m), generator=generator)
        at = torch.randint(T - 2 * m - 1, (n, 1), generator=generator)
        ids.scatter_(1, at, torch.full_like(at, TELL))
        ids.scatter_(1, at + 1 + torch.arange(m), number)
        ids[:, T - m - 1], ids[:, T - m :] = ASK, number
        labels, distance = ignore(n, T), torch.zeros_like(ids)
        labels[:, T - m - 1 : -1] = number
        distance[:, T - m - 1 : -1] = T - m - 2 - at
        return Batch(ids, labels, T - m, {"distance": distance})
