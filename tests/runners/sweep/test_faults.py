"""Disks, folders, neighbours and signals: a sweep says what is wrong, and goes on from there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvfrontier.runners.record import load_records
from tests.runners.sweep.processes import TINY, command, said, start

#: Six cells in two jobs.
SWEEP = ("run", "-m", *TINY, "method=dense,window", "seed=0,1,2")


def sweep(results: Path, *words: str, **how) -> int:
    process = start([*SWEEP, *words, f"results={results}"], **how)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    results = tmp_path_factory.mktemp("undisturbed")
    assert sweep(results) == 0
    return said(results)


def in_little_room(words: Sequence[str], silent: bool) -> None:
    """As on a disk that is full after two records of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
    _heard(words)


def without_rights(words: Sequence[str], silent: bool) -> None:
    """The results folder is made read-only after the first record; root would not notice."""
    from kvfrontier.runners import job

    _drop_the_right_to_write_anywhere()
    append, results = job.append, Path(next(w for w in words if w.startswith("results=")).partition("=")[2])

    def then_close(file: Path, record) -> None:
        append(file, record)
        file.chmod(0o444)
        results.chmod(0o555)

    job.append = then_close
    _heard(words)


def _heard(words: Sequence[str]) -> None:
    """What the command says goes beside its results."""
    results = next(w for w in words if w.startswith("results=")).partition("=")[2]
    err = os.open(f"{results}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    command(words, silent=False)


def _drop_the_right_to_write_anywhere() -> None:
    """CAP_DAC_OVERRIDE, with which root writes where nobody may (capset(2))."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    data[0] &= ~(1 << 1)
    assert libc.capset(header, data) == 0


def test_a_full_disk_is_said_and_nothing_that_was_recorded_is_lost(tmp_path, undisturbed):
    results = tmp_path / "results"
    assert sweep(results, target=in_little_room) == 1
    error = (tmp_path / "results.err").read_text()
    assert "File too large" in error
    assert "what is recorded is kept" in error
    there = said(results)
    assert 0 < len(there) < 6
    assert there.items() <= undisturbed.items()
    assert sweep(results) == 0
    assert said(results) == undisturbed


def test_a_folder_that_becomes_read_only_is_said_and_the_sweep_goes_on_when_it_is_not(tmp_path, undisturbed):
    results = tmp_path / "results"
    assert sweep(results, target=without_rights) in (1, 2)
    assert "Permission denied" in (tmp_path / "results.err").read_text()
    assert len(said(results)) == 1
    results.chmod(0o755)
    for file in results.glob("*.jsonl"):
        file.chmod(0o644)
    assert sweep(results) == 0
    assert said(results) == undisturbed


def test_two_sweeps_of_one_folder_share_the_work_and_repeat_none(tmp_path, undisturbed):
    results = tmp_path / "results"
    both = [start([*SWEEP, f"results={results}"]) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert said(results) == undisturbed


def test_sigterm_ends_a_sweep_in_time_and_it_goes_on_from_there(tmp_path, undisturbed):
    results = tmp_path / "results"
    process = start([*SWEEP, f"results={results}"])
    while not any(results.glob("*.jsonl")):
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    begun = time.monotonic()
    process.join()
    assert process.exitcode == 143
    assert time.monotonic() - begun < 30
    assert said(results).items() <= undisturbed.items()
    assert sweep(results) == 0
    assert said(results) == undisturbed


def set_back(words: Sequence[str], silent: bool) -> None:
    """Between two records the clock is set back by a day, and on again."""
    import datetime as plain

    from kvfrontier.runners import cell

    class Jumping(plain.datetime):
        calls = 0

        @classmethod
        def now(cls, tz=None):
            cls.calls += 1
            return plain.datetime.now(tz) - plain.timedelta(days=cls.calls % 2)

    cell.datetime = Jumping
    command(words, silent)


def test_a_clock_that_jumps_loses_and_repeats_nothing(tmp_path, undisturbed):
    results = tmp_path / "results"
    assert sweep(results, "seed=0,1", target=set_back) == 0
    assert sweep(results, target=set_back) == 0
    assert said(results) == undisturbed
    assert len({r.created[:10] for r in load_records(results)}) == 2
