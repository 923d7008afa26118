"""The command in this process: one warm process instead of one a test."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kvfrontier.runners import cli

#: A cell of about a tenth of a second.
QUICK = [
    "model=tiny", "task=needle", "task.samples=1", "context=384",
    "meter.decode_tokens=2", "meter.repetitions=1", "meter.warmups=0", "tracker=none",
    "worker.isolate=false",
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def kvfrontier(capfd) -> Callable[..., Answer]:
    """Run one command: `kvfrontier("list", "methods")`."""

    def command(*args: str) -> Answer:
        try:
            code = cli.main(args)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return command


@pytest.fixture
def quick(tmp_path) -> list[str]:
    """Arguments of quick cells on the tiny model, and a results folder of the test's own."""
    return [*QUICK, f"results={tmp_path / 'results'}"]


@pytest.fixture
def run(kvfrontier, quick) -> Callable[..., Answer]:
    """Run quick cells."""
    return lambda *args: kvfrontier("run", *quick, *args)
