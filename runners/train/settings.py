"""How a training goes: the keys of `train` in configs/train/config.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvfrontier.runners.errors import UsageError


class Settings(BaseModel):
    """configs/train/config.yaml says what they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(None, ge=1)
    epochs: int = Field(32, ge=1)
    batch: int = Field(256, ge=1)
    lr: tuple[float, ...] = Field((1e-3, 3.2e-3, 1e-2, 3.2e-2), min_length=1)
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    clip: float | None = Field(1.0, gt=0)
    stop: float | None = Field(0.99, gt=0, le=1)
    valid: int = Field(256, ge=1)
    every: int | None = Field(None, ge=1)
    before: int = Field(1000, ge=1)
    lora: int | None = Field(None, ge=1)
    bptt: int | None = Field(None, ge=1)
    checkpoint: float = Field(60.0, gt=0)
    keep: bool = False

    def schedule(self, done: float) -> float:
        """Share of the learning rate after a share of the steps: up in a line, and down by half a cosine to zero."""
        if done < self.warmup:
            return (done + 1e-9) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the outcome: all but when and whether checkpoints are kept."""
        return self.model_dump(exclude={"checkpoint", "keep"}, mode="json")


def read(config: Mapping[str, Any]) -> Settings:
    """The settings of a configuration. Raises UsageError, with the key."""
    given = dict(config)
    if isinstance(given.get("lr"), (int, float)):
        given["lr"] = [given["lr"]]
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f".{part}" for part in first["loc"])
        raise UsageError(f"train{where}={first['input']!r}: {first['msg']}") from error
