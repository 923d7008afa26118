"""Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927, appendix; Arora et al. 2024, arXiv:2402.18668):

    k1 v1 k2 v2 ... | . . k2 . k1 . . .

A text begins with pairs of a key and a value. Behind them the keys come again, each once, at even distances that follow
a power law, among random tokens; at each the model should name its value. Keys are from the lower half of the
vocabulary (without 0), values from the upper. A key's place is drawn without replacement with probability proportional
to a g^(a - 1), g = 1, 2, ... counting pairs of places behind the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, distinct, ignore


@dataclass(frozen=True, kw_only=True)
class MQAR(TrainedTask):
    """vocabulary: tokens, half of them keys; power: a of the law of gaps."""

    train: tuple[Shape, ...] = ({"length": 64, "pairs": 4, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 64, "pairs": 4},)
    vocabulary: int = 8192
    power: float = 0.01

    name: ClassVar[str] = "mqar"
    summary: ClassVar[str] = "Pairs of a key and a value, then keys whose values are asked for."
    shape: ClassVar[dict[str, int]] = {"pairs": 1}

    @property
    def tokens(self) -> int:
        return self.vocabulary

    def check(self, shape: Mapping[str, int]) -> None:
        if shape["length"] % 2 or 4 * shape["pairs"] > shape["length"]:
            raise ValueError(
                f"{shape['pairs']} pairs and their questions do not fit into {shape['length']} tokens: the length is "
                "even, and at least four times the pairs"
            )
        if shape["pairs"] >= self.vocabulary // 2:
            raise ValueError(f"vocabulary {self.vocabulary} has too few keys for {shape['pairs']} pairs; raise it")

    def chance(self, shape: Mapping[str, int]) -> float:
        return 1 / (self.vocabulary - self.vocabulary // 2)

    def rules(self) -> dict[str, Any]:
        return {"metric": "share of queries whose value is the most likely token", "filler": "uniform"}

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T, pairs = shape["length"], shape["pairs"]
        half, context = self.vocabulary // 2, 2 * pairs
        ids = torch.randint(self.vocabulary, (n, T), generator=generator)
        keys = distinct(n, pairs, half - 1, generator) + 1
        values = distinct(n, pairs, self.vocabulary - half, generator) + half
        ids[:, 0:context:2], ids[:, 1:context:2] = keys, values
        # The largest of log p + Gumbel noise are a draw without replacement.
        places = torch.arange(1, (T - context) // 2 + 1, dtype=torch.float64)
        noise = -torch.rand(n, len(places), generator=generator, dtype=torch.float64).log()
        chosen = ((self.power - 1) * places.log() - noise.log()).topk(pairs, dim=1).indices
        at = context + 2 * chosen
        labels, distance = ignore(n, T), torch.zeros(n, T, dtype=torch.int64)
        ids.scatter_(1, at, keys)
        labels.scatter_(1, at, values)
        distance.scatter_(1, at, at - torch.arange(1, context, 2))
        return Batch(ids, labels, context, {"distance": distance})
