"""Selective copying (Gu & Dao 2023, arXiv:2312.00752, section 4.1): a few tokens stand at random places among noise,
and are to be named in their order.

    . . x1 . . . x2 x3 . . | | |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, distinct, ignore


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(TrainedTask):
    """vocabulary: tokens, noise (0) and mark (1) among them. A shape's `copied`: tokens to be named."""

    train: tuple[Shape, ...] = ({"length": 64, "copied": 16, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64, "copied": 16},)
    vocabulary: int = 16

    name: ClassVar[str] = "selective_copying"
    summary: ClassVar[str] = "A few tokens at random places among noise, to be named in their order."
    shape: ClassVar[dict[str, int]] = {"copied": 1}

    @property
    def tokens(self) -> int:
        return self.vocabulary

    def check(self, shape: Mapping[str, int]) -> None:
        if 2 * shape["copied"] + 1 > shape["length"] or self.vocabulary < 4:
            raise ValueError(
                f"{shape['copied']} tokens and as many answers do not fit into {shape['length']}, or the vocabulary "
                "has fewer than 4 tokens; raise length or vocabulary"
            )

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / (self.vocabulary - 2)

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of the marks that name their token"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T, m = shape["length"], shape["copied"]
        space = T - m - 1
        ids = torch.zeros(n, T, dtype=torch.int64)
        copied = torch.randint(2, self.vocabulary, (n, m), generator=generator)
        ids.scatter_(1, distinct(n, m, space, generator).sort(1).values, copied)
        ids[:, space:] = 1  # one mark behind the last answer, whose place asks nothing
        labels = ignore(n, T)
        labels[:, space:-1] = copied
        return Batch(ids, labels, space + 1)
