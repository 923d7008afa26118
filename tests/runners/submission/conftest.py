"""One real record, made on the tiny model, and ways to change it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners import cli


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A record as it was written."""
    folder = tmp_path_factory.mktemp("one")
    told = ["run", "model=tiny", "task=needle", "task.samples=6", "context=384", "meter.decode_tokens=2"]
    assert cli.main([*told, "tracker=none", "method=dense", f"results={folder}"]) == 0
    (file,) = folder.glob("*.jsonl")
    return file.read_text()


@pytest.fixture
def changed(line: str) -> Callable[..., str]:
    """The record with values replaced, by paths joined with __: memory__peak=1."""

    def change(**changes: Any) -> str:
        data = json.loads(line)
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = data
            for name in parents:
                target = target[name]
            target[last] = value
        return json.dumps(data) + "\n"

    return change


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Lines as a file of records."""

    def write(*lines: str | bytes, name: str = "mine.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(text.encode() if isinstance(text, str) else text for text in lines))
        return path

    return write
