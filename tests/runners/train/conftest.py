"""Trainings of a second: a model of one convolution and one mixer, 32 wide, on recall over 32 tokens."""

from collections.abc import Callable
from typing import Any

import pytest

from kvfrontier.runners import compose
from kvfrontier.runners.train import tasks
from kvfrontier.runners.train.build import build, method_of
from kvfrontier.runners.train.settings import Settings
from kvfrontier.runners.train.trainer import Trainer

MODEL = {"kind": "compact", "name": "zoology", "width": 32, "heads": 2}
TASK = {
    "name": "mqar",
    "vocabulary": 64,
    "train": [{"length": 32, "pairs": 4, "examples": 32}],
    "test": [{"length": 32, "pairs": 4}],
    "examples": 16,
}


@pytest.fixture
def trainer() -> Callable[..., Trainer]:
    """A trainer of a method, by its parameters: `trainer({"name": "window", "window": 8}, steps=4)`."""
    compose.register()

    def make(
        method: dict[str, Any],
        *,
        lr: float = 0.01,
        seed: int = 0,
        file: Any = None,
        model: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        whole_task: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Trainer:
        config, asked = {**MODEL, **(model or {})}, tasks.make(whole_task or {**TASK, **(task or {})})
        made = build(config, asked.tokens, seed=seed, dtype="float32", device="cpu")
        wanted = Settings(**{"steps": 2, "batch": 16, "valid": 8, "lr": (lr,), **settings})
        return Trainer(made, method_of(method, config), asked, wanted, lr, seed, file=file, identity="test")

    return make
