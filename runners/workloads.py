"""Workloads: which requests a model is asked at once, their lengths and what they share. configs/workload defines each
once, and plans, runs and the simulated allocators read it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from kvfrontier.runners import compose
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Block

Layout = Literal["padded", "packed"]


class Requests(Block):
    """`count` requests that are alike.

    prompt  tokens of the first prompt, `shared` included
    new     tokens decoded in each turn
    shared  tokens that the prompts of these requests begin with in common: read once, where a state can be forked
    turns   how often it is asked and answered
    follow  tokens that are read in each turn after the first, after all that was said before
    """

    count: int = Field(1, ge=1)
    prompt: int = Field(ge=1)
    new: int = Field(ge=1)
    shared: int = Field(0, ge=0)
    turns: int = Field(1, ge=1)
    follow: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Requests:
        if self.shared >= self.prompt:
            raise ValueError(f"shared={self.shared} leaves nothing of prompt={self.prompt} of its own; lower it")
        if (self.turns > 1) != (self.follow > 0):
            raise ValueError(f"turns={self.turns} with follow={self.follow}: each turn after the first reads something")
        return self

    @property
    def total(self) -> int:
        """Tokens of one of them when it ends."""
        return self.prompt + (self.turns - 1) * self.follow + self.turns * self.new


@dataclass(frozen=True)
class Batch:
    """Requests that run as the rows of one batch: `prompts` in tokens; the rest as of `Requests`. With `shared`, a
    prefix is read once, and each row is a fork of its state."""

    prompts: tuple[int, ...]
    new: int
    shared: int = 0
    turns: int = 1
    follow: int = 0


class Workload(Block):
    """Requests that are there at once. `layout`: whether rows of unequal length are padded to the longest, or packed
    one after the other."""

    name: str
    requests: tuple[Requests, ...] = Field(min_length=1)
    layout: Layout = "packed"

    @property
    def count(self) -> int:
        """Requests."""
        return sum(r.count for r in self.requests)

    @property
    def longest(self) -> int:
        """Tokens of the longest request when it ends."""
        return max(r.total for r in self.requests)

    @property
    def tokens(self) -> int:
        """Tokens of all requests when they end, common prefixes counted for each."""
        return sum(r.count * r.total for r in self.requests)

    @property
    def shared(self) -> int:
        """Of `tokens`, those that a common prefix makes superfluous."""
        return sum((r.count - 1) * r.shared for r in self.requests)

    @property
    def padding(self) -> int:
        """Tokens of padding that prompts would need to be as long as the longest of their batch."""
        return sum(sum(max(b.prompts) - n for n in b.prompts) for b in self.batches if not b.shared)

    @property
    def batches(self) -> list[Batch]:
        """Rows that run together: requests of one shape of turns, and each family with a common prefix."""
        rows: dict[tuple[int, int, int], list[int]] = {}
        families = []
        for r in self.requests:
            if r.shared:
                families.append(Batch((r.prompt,) * r.count, r.new, r.shared, r.turns, r.follow))
            else:
                rows.setdefault((r.new, r.turns, r.follow), []).extend([r.prompt] * r.count)
        plain = [Batch(tuple(prompts), new, 0, turns, follow) for (new, turns, follow), prompts in rows.items()]
        return plain + families


def names() -> list[str]:
    """The workloads of configs/workload."""
    return compose.names("workload")


def load(name: str) -> Workload:
    """The workload of this name. Raises UsageError, with the nearest name, where there is none."""
    compose.register()
    return make(compose.Composer()([f"workload={name}"]).config["workload"])


def make(config: Mapping[str, Any]) -> Workload:
    """The workload that a configuration describes. Raises UsageError, with what to change."""
    try:
        return Workload.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"workload{'.' * bool(where)}{where}: {first['msg'].removeprefix('Value error, ')}") from error
