"""What a search is asked for: the keys of configs/search/*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import Block, Cell

#: Steps of a search for the context where the prompt is read in one call.
_WITHOUT_CHUNKS = 256


class Settings(Block):
    """start, most: the first size that is tried and the last; step: how exactly the wall is found.

    weights: the model's own, or random ones of its architecture.
    """

    name: Literal["max_context", "max_throughput"]
    start: int = Field(ge=1)
    most: int = Field(ge=1)
    step: int = Field(default=1, ge=1)
    beyond_positions: bool = False
    weights: Literal["own", "random"] = "own"

    @property
    def of_context(self) -> bool:
        """Whether the context is sought, and not the batch."""
        return self.name == "max_context"

    def least(self, cell: Cell) -> int:
        """The smallest size that means anything: one token to read before those that are decoded; one sequence."""
        return cell.protocol["decode_tokens"] + 1 if self.of_context else 1


def read(config: Mapping[str, Any]) -> Settings | None:
    """The search that a composed configuration asks for, every default filled in, or None. Raises UsageError."""
    given = config.get("search")
    if given is None:
        return None
    names = ("max_context", "max_throughput")
    if not isinstance(given, Mapping) or given.get("name") not in names:
        raise unknown("search", str(given.get("name") if isinstance(given, Mapping) else given), names)
    values = dict(given)
    if values.get("step", 0) is None:
        values["step"] = config["protocol"]["chunk"] or _WITHOUT_CHUNKS
    try:
        found = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"search.{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg'].lower()}"
        ) from error
    if found.of_context and config["budget"] is not None:
        raise UsageError(
            "a budget depends on the context, which search=max_context is to find; set the method's own parameters"
        )
    least = config["meter"]["decode_tokens"]
    if found.of_context and found.start <= least:
        raise UsageError(f"search.start={found.start} is no more than meter.decode_tokens={least}; raise it")
    return found


def of(cell: Cell) -> Settings:
    """The settings that a cell with a search holds."""
    return Settings.model_validate(cell.search)
