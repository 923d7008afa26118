"""A comparison on the tiny model: cells of a tenth of a second, on a text that needs no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvfrontier.runners.reproduce.run import Reproduction

WORDS = (
    "model=tiny", "context=192", "task.texts=[python-docs]", "task.passages=1", "task.scored=64", "task.block=8",
    "meter.decode_tokens=2",
)  # fmt: skip


@pytest.fixture
def words() -> tuple[str, ...]:
    return WORDS


@pytest.fixture
def reproduction(tmp_path: Path) -> Callable[..., Reproduction]:
    """Comparisons by name, in a folder of the test's own."""
    return lambda *names: Reproduction.of(names, "cpu", WORDS, tmp_path / "reproduced")
