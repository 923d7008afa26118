"""The words of `kvfrontier plan`: key=value, where commas make a product of cells.

Keys of its own are requests (32x500: as many sequences of that many tokens), workload (of configs/workload: as many
sequences as it has requests, all as long as its longest), device (of configs/hardware), chunk, new and logits; all
others are those of `kvfrontier run`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, workloads
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.plan.hardware import Hardware, hardware
from kvfrontier.runners.plan.run import Logits
from kvfrontier.runners.record import Cell
from kvfrontier.runners.workloads import Workload

ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: What is planned where nothing else is asked for.
_USUAL = {"dtype": "bf16", "chunk": "4096", "new": "1", "logits": "last", "device": "h100-80g"}
_REQUESTS = re.compile(r"(\d+)x(\d+)")
#: A comma that stands in no bracket.
_COMMA = re.compile(r",(?![^\[{(]*[\]})])")
#: Keys that have a shorter name here than in `kvfrontier run`.
FOR_RUN = {"chunk": "protocol.chunk", "new": "meter.decode_tokens"}


@dataclass(frozen=True)
class Asked:
    """One line of the plan: a cell, its model's keys, the device that need not be there, and which logits are made."""

    cell: Cell
    choice: str
    model: dict[str, Any]
    hardware: Hardware
    logits: Logits
    workload: Workload | None = None

    @property
    def chunk(self) -> int | None:
        return self.cell.protocol["chunk"]

    @property
    def new(self) -> int:
        """Decoded tokens of the context; the rest is the prompt."""
        return self.cell.protocol["decode_tokens"]


def read(words: Sequence[str]) -> list[Asked]:
    """The cells that the words ask for, in the order of the words. Raises UsageError, with what to change."""
    values = split(words, _USUAL)
    if "requests" in values and {"context", "batch"} & set(values):
        raise UsageError("requests=NxT says both batch and context; leave these out")
    if "workload" in values and {"context", "batch", "requests"} & set(values):
        raise UsageError("workload=NAME says both batch and context; leave these out")
    return [_asked(combination) for combination in product(values)]


def split(words: Sequence[str], usual: Mapping[str, str]) -> dict[str, list[str]]:
    """The values of each key, where commas part them; `usual` where a key is not named. Raises UsageError."""
    values: dict[str, list[str]] = {}
    for word in [*(f"{key}={value}" for key, value in usual.items()), *words]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word!r} is not KEY=VALUE; write for example model=llama-3-8b context=131072")
        values[key] = [one for one in _COMMA.split(value) if one]
    return values


def product(values: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Every combination of the keys' values, in the order of the keys."""
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


@cache
def composer() -> compose.Composer:
    """One for all cells: what it has composed it keeps."""
    compose.register()
    return compose.Composer()


def _asked(words: dict[str, str]) -> Asked:
    if "requests" in words:
        found = _REQUESTS.fullmatch(asked := words.pop("requests"))
        if not found:
            raise UsageError(f"requests={asked} is no number of texts; write 32x500 for 32 of 500 tokens")
        words |= {"batch": found[1], "context": found[2]}
    workload = workloads.load(words.pop("workload")) if "workload" in words else None
    if workload is not None:
        # Of several turns the last is decoded, and what was said before has been read.
        new = max(workload.requests, key=lambda r: r.total).new
        words |= {"batch": str(workload.count), "context": str(workload.longest), "new": str(new)}
    device, logits = words.pop("device"), words.pop("logits")
    if logits not in ("last", "all"):
        raise unknown("logits", logits, ("last", "all"))
    words["dtype"] = ALIASES.get(words["dtype"], words["dtype"])
    config = composer()([f"{FOR_RUN.get(key, key)}={value}" for key, value in words.items()])
    context, new = config.config["context"], config.config["meter"]["decode_tokens"]
    if new >= context:
        raise UsageError(f"new={new} leaves nothing of context {context} to prefill")
    cell = cells.describe(config.config, prompt=context - new)
    model = {**config.config["model"], "dtype": cell.dtype}
    return Asked(cell, config.choices["model"], model, hardware(device), cast(Literal["last", "all"], logits), workload)
