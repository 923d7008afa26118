"""Induction heads (Olsson et al. 2022, arXiv:2209.11895, as Gu & Dao 2023 ask it): a token that has come once comes
again, and what followed it is asked.

    . . . k x . . . . k -> x
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, ignore


@dataclass(frozen=True, kw_only=True)
class Induction(TrainedTask):
    """vocabulary: tokens, the one that comes twice (0) among them."""

    train: tuple[Shape, ...] = ({"length": 64, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64},)
    vocabulary: int = 16

    name: ClassVar[str] = "induction"
    summary: ClassVar[str] = "A token comes a second time; what followed it is asked."

    @property
    def tokens(self) -> int:
        return self.vocabulary

    def check(self, shape: Mapping[str, int]) -> None:
        if shape["length"] < 5 or self.vocabulary < 3:
            raise ValueError("at least 5 tokens of at least 3 kinds; raise length or vocabulary")

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / (self.vocabulary - 1)

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of texts whose next token is the most likely one"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T = shape["length"]
        ids = torch.randint(1, self.vocabulary, (n, T), generator=generator)
        at = torch.randint(T - 3, (n, 1), generator=generator)
        ids.scatter_(1, at, torch.zeros_like(at))
        ids[:, -2] = 0
        ids[:, -1:] = ids.gather(1, at + 1)
        labels = ignore(n, T)
        labels[:, -2] = ids[:, -1]
        distance = torch.zeros_like(ids)
        distance[:, -2] = T - 2 - (at[:, 0] + 1)
        return Batch(ids, labels, T - 1, {"distance": distance})
