"""What is run on fake tensors: all that decides a peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Logits = Literal["last", "all"]


@dataclass(frozen=True)
class Run:
    """What decides a peak.

    model    keys of configs/model/*.yaml, and dtype
    method   its parameters, complete
    prompt, new   tokens that are read, and then decoded one by one
    chunk    tokens of the prompt at a time, or None
    logits   of the last position of each chunk, or of all of them
    """

    model: Mapping[str, Any]
    method: Mapping[str, Any]
    batch: int
    prompt: int
    new: int = 1
    chunk: int | None = None
    logits: Logits = "last"

    @property
    def dtype(self) -> str:
        return self.model.get("dtype", "float32")

    @property
    def pieces(self) -> list[int]:
        """Tokens of each chunk."""
        whole, rest = divmod(self.prompt, self.chunk or self.prompt)
        return [self.chunk or self.prompt] * whole + [rest] * bool(rest)
