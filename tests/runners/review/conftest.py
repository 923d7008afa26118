"""Records of tasks that were never run, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import cli
from kvfrontier.runners.record import (
    Cell,
    Environment,
    Memory,
    MethodInfo,
    Quality,
    Record,
    Time,
    content_hash,
)
from kvfrontier.runners.tasks import Task


@dataclass(frozen=True)
class Said:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def kvfrontier(capfd) -> Callable[..., Said]:
    """Run one command: `kvfrontier("rescore", "results")`."""

    def command(*args: str) -> Said:
        code = cli.main(args)
        return Said(code, *capfd.readouterr())

    return command


@pytest.fixture
def record_of() -> Callable[..., Record]:
    """(task, samples, method) -> a record of it on the tiny model, at 1,024 tokens, without scores."""

    def make(task: Task, samples: Sequence[dict[str, Any]], method: str = "dense", **quality: Any) -> Record:
        cell = Cell(
            model="tiny",
            dtype="float32",
            device="cpu",
            method=registry.complete({"name": method}),
            task={**task.parameters(), "version": task.version},
            protocol={"chunk": 512},
            context=1024,
        )
        return Record(
            id=content_hash(cell.model_dump()),
            created="2026-11-23T12:00:00+00:00",
            cell=cell,
            info=MethodInfo(family="baseline", label=method),
            method_hash="m",
            protocol_hash="p",
            environment=Environment(
                device_name="a CPU", device_kind="cpu", threads=1, platform="Linux", python="3.12", torch="2.13.0",
                transformers="5.23.0", kvfrontier="0.1.0",
            ),
            config={},
            quality=Quality(
                **{
                    "status": "ok", "repetitions": 1, "task": task.name, "task_version": task.version,
                    "task_hash": task.hash(), "sample_set": f"n={len(samples)} seed=0 tokenizer=t data=d",
                    "primary": task.primary, "samples": tuple(samples), **quality,
                }
            ),
            memory=Memory(status="skipped"),
            time=Time(status="skipped"),
        )  # fmt: skip

    return make
