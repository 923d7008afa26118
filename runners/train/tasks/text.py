"""Language modelling of bytes: stretches of a licensed text, the last part of which is kept for validation and test.

Scores are the perplexity of a byte behind the prompt, its loss by place (octaves), and the long-range benefit: by how
much the loss of the last `near` bytes falls when the model has read all before them and not only the `near` before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.runners import models
from kvfrontier.runners.record import canonical_json
from kvfrontier.runners.texts import load_text
from kvfrontier.runners.train.tasks.task import Batch, Shape, TrainedTask, ignore

#: Shares of the text: what is trained on ends where validation begins, and that where the test begins.
_VALID, _TEST = 0.9, 0.95


@dataclass(frozen=True, kw_only=True)
class Text(TrainedTask):
    """text: a name of runners/texts.py; near: tokens that are scored with and without what stands far before them.
    tokenizer: the configuration of a model whose tokens take the place of bytes, for uptraining it."""

    train: tuple[Shape, ...] = ({"length": 256, "examples": 20_000},)
    test: tuple[Shape, ...] = ({"length": 256},)
    text: str = "python-docs"
    near: int = 64
    tokenizer: dict[str, Any] | None = None

    name: ClassVar[str] = "text"
    metric: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "Bytes of a text: perplexity, by place, and what the far past is worth."

    @property
    def tokens(self) -> int:
        return 256 if self.tokenizer is None else len(_tokenizer(canonical_json(self.tokenizer)))

    @property
    def near_tokens(self) -> int:
        return self.near

    def check(self, shape: Mapping[str, int]) -> None:
        if self.near < 1 or 2 * self.near >= shape["length"]:
            raise ValueError(
                f"near {self.near} must be at least 1 and less than half of the {shape['length']} tokens: else there "
                "is no far past"
            )

    def rules(self) -> dict[str, Any]:
        return {
            "metric": "exp of the mean loss of all bytes behind the first",
            "revision": load_text(self.text).revision,
            "split": [_VALID, _TEST],
        }

    def draw(self, shape: Mapping[str, int], n: int, generator: torch.Generator, split: str = "train") -> Batch:
        T, corpus = shape["length"], _corpus(self.text, canonical_json(self.tokenizer))
        size = len(corpus)
        first, last = {"train": (0, _VALID), "valid": (_VALID, _TEST), "test": (_TEST, 1)}[split]
        begin, end = int(first * size), int(last * size) - T
        if end <= begin:
            raise ValueError(f"{T} tokens are more than the {split} part of {self.text} has; lower length")
        at = torch.randint(begin, end, (n, 1), generator=generator) + torch.arange(T)
        ids = corpus[at]
        labels = ignore(n, T)
        labels[:, :-1] = ids[:, 1:]
        return Batch(ids, labels, 1, {"place": torch.arange(T).expand(n, T)})


@cache
def _corpus(name: str, model: str) -> Tensor:
    content = load_text(name).content
    if model == "null":
        return torch.frombuffer(bytearray(content.encode()), dtype=torch.uint8).long()
    return torch.tensor(_tokenizer(model)(content, add_special_tokens=False, verbose=False)["input_ids"])


@cache
def _tokenizer(model: str) -> Any:
    return models.tokenizer(json.loads(model))
