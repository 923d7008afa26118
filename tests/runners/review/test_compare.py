"""`kvfrontier compare`: its exit code, which continuous integration reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvfrontier.runners import cli

RUN = ["run", "model=tiny", "task=needle", "task.samples=5", "meter.decode_tokens=2", "meter.repetitions=1",
       "meter.warmups=0", "tracker=none"]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same with a byte more of state."""
    before, after = (tmp_path_factory.mktemp(name) for name in ("before", "after"))
    assert cli.main([*RUN, "context=384", f"results={before}"]) == 0
    (file,) = before.glob("*.jsonl")
    record = json.loads(file.read_text())
    record["memory"]["live_payload"] += 1
    (after / file.name).write_text(json.dumps(record) + "\n")
    return before, after


def test_nothing_worse_ends_with_0(two, capsys) -> None:
    assert cli.main(["compare", str(two[0]), str(two[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["worse"] == 0


def test_something_worse_ends_with_1_and_is_shown(two, capsys) -> None:
    assert cli.main(["compare", *map(str, two)]) == 1
    assert "live_payload" in capsys.readouterr().out
    assert cli.main(["compare", *map(str, two), "--only", "score", "seconds"]) == 0


def test_bad_usage_ends_with_2(two, tmp_path, capsys) -> None:
    assert cli.main(["compare", *map(str, two), "--only", "speed"]) == 2
    other = tmp_path / "other.jsonl"
    record = json.loads(next(two[0].glob("*.jsonl")).read_text())
    record["cell"]["seed"] = 7
    other.write_text(json.dumps(record) + "\n")
    assert cli.main(["compare", str(two[0]), str(other)]) == 2
    assert "no cell is in both" in capsys.readouterr().err
