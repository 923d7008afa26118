"""Copying (Jelassi et al. 2024, arXiv:2402.01032): a random text, a mark, and the text again.

    x1 x2 ... xn | x1 x2 ... xn

A state of constant size can hold only so much of it; attention copies any length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, ignore


@dataclass(frozen=True, kw_only=True)
class Copying(TrainedTask):
    """vocabulary: tokens, the mark (0) among them. Of an even length, the first token is a mark as well."""

    train: tuple[Shape, ...] = ({"length": 64, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64},)
    vocabulary: int = 64

    name: ClassVar[str] = "copying"
    summary: ClassVar[str] = "A random text, a mark, and the text again."

    @property
    def tokens(self) -> int:
        return self.vocabulary

    def check(self, shape: Mapping[str, int]) -> None:
        if shape["length"] < 3 or self.vocabulary < 3:
            raise ValueError("a copy takes at least 3 tokens of at least 3 kinds; raise length or vocabulary")

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / (self.vocabulary - 1)

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of the copy's tokens, each after the right ones before it"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T = shape["length"]
        m = (T - 1) // 2
        ids = torch.zeros(n, T, dtype=torch.int64)
        ids[:, T - 2 * m - 1 : T - m - 1] = torch.randint(1, self.vocabulary, (n, m), generator=generator)
        ids[:, T - m :] = ids[:, T - 2 * m - 1 : T - m - 1]
        labels = ignore(n, T)
        labels[:, T - m - 1 : -1] = ids[:, T - m :]
        return Batch(ids, labels, T - m)
