"""Associative recall with noise: pairs of a key and a value at random places among noise, then keys whose values are
asked. Unlike MQAR's, a pair must first be told from what is not worth remembering (Poli et al. 2024, arXiv:2403.17844,
"noisy in-context recall").

    . . k1 v1 . k2 v2 . . . | k2 v2 k1 v1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, distinct, ignore


@dataclass(frozen=True, kw_only=True)
class NoisyRecall(TrainedTask):
    """vocabulary: keys and values, half each, with the mark (0) before; noise: further tokens that mean nothing."""

    train: tuple[Shape, ...] = ({"length": 64, "pairs": 8, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64, "pairs": 8},)
    vocabulary: int = 64
    noise: int = 16

    name: ClassVar[str] = "noisy_recall"
    summary: ClassVar[str] = "Pairs of a key and a value among noise, then keys whose values are asked."
    shape: ClassVar[dict[str, int]] = {"pairs": 1}

    @property
    def tokens(self) -> int:
        return 1 + self.vocabulary + self.noise

    def check(self, shape: Mapping[str, int]) -> None:
        if 4 * shape["pairs"] + 1 > shape["length"] or self.noise < 1:
            raise ValueError(
                f"{shape['pairs']} pairs and their questions do not fit into {shape['length']} tokens, or there is no "
                "noise; raise length or noise"
            )
        if shape["pairs"] > self.vocabulary // 2:
            raise ValueError(f"vocabulary {self.vocabulary} has too few keys for {shape['pairs']} pairs; raise it")

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / (self.vocabulary - self.vocabulary // 2)

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of keys whose value is the most likely token", "questions": "random order"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T, m = shape["length"], shape["pairs"]
        half, context = self.vocabulary // 2, T - 2 * m - 1
        ids = torch.randint(1 + self.vocabulary, self.tokens, (n, T), generator=generator)
        keys = 1 + distinct(n, m, half, generator)
        values = 1 + half + torch.randint(self.vocabulary - half, (n, m), generator=generator)
        # Places of keys such that no two pairs meet: of the noise that is left between them, and then the pairs' own.
        at = distinct(n, m, context - m, generator).sort(1).values + torch.arange(m)
        ids.scatter_(1, at, keys)
        ids.scatter_(1, at + 1, values)
        ids[:, context] = 0
        order = torch.rand(n, m, generator=generator).argsort(1)
        labels, distance = ignore(n, T), torch.zeros(n, T, dtype=torch.int64)
        ids[:, context + 1 :: 2], ids[:, context + 2 :: 2] = keys.gather(1, order), values.gather(1, order)
        labels[:, context + 1 :: 2] = values.gather(1, order)
        distance[:, context + 1 :: 2] = torch.arange(context + 1, T, 2) - (at + 1).gather(1, order)
        return Batch(ids, labels, context + 1, {"distance": distance})
