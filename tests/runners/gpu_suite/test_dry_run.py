"""The suite's whole path, on a CPU, at tiny size: `python -m kvfrontier.runners.gpu_suite --dry-run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvfrontier.runners.gpu_suite import command, worker
from kvfrontier.runners.gpu_suite.journal import Journal
from kvfrontier.runners.record import load_records


def suite(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "kvfrontier.runners.gpu_suite", "--dry-run", "-o", str(folder), *more]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)


def test_every_part_runs_and_a_second_run_finds_it_done(tmp_path: Path) -> None:
    first = suite(tmp_path)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    entries = Journal(tmp_path).entries()
    assert {entry.part for entry in entries.values()} == {"suite", *command.PARTS}
    ran = {entry.part for entry in entries.values() if entry.status == "ok"}
    assert ran == {"suite", *command.PARTS}
    # Only what needs a GPU, or a package that is not installed, is refused, and says so.
    for entry in entries.values():
        if entry.status != "ok":
            assert entry.status == "refused"
            assert any(words in entry.reason for words in ("CUDA", "pip install", "log-sum-exp")), entry
    assert load_records(tmp_path / "records.jsonl")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["records.jsonl", "suite.jsonl", "suite.md", "trace-0.json.gz"]
    assert "## Families" in (tmp_path / "suite.md").read_text()
    lines = len((tmp_path / "suite.jsonl").read_text().splitlines())
    worker.work(tmp_path, ("curves", "walls"), True, 60.0, ())
    assert len(Journal(tmp_path).entries()) == len(entries)
    refused = sum(e.status == "refused" and e.part in ("curves", "walls") for e in entries.values())
    assert len((tmp_path / "suite.jsonl").read_text().splitlines()) == lines + refused


def test_what_is_asked_wrongly_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-o", str(tmp_path), "--only", "curve"]) == 2
    assert "no part 'curve'; choose of checks, curves" in capsys.readouterr().err
    assert command.main(["-o", str(tmp_path), "--gguf", "nowhere.gguf"]) == 2
    assert "there is no file nowhere.gguf" in capsys.readouterr().err
