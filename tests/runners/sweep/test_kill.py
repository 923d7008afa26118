"""kill -9 at random moments: nothing recorded is lost, nothing is recorded twice, and what is said is the same."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.runners.sweep.processes import TINY, said, start

pytestmark = pytest.mark.filterwarnings("ignore::kvfrontier.runners.record.TornLine")
#: Six cells in three jobs.
SWEEP = ("run", "-m", *TINY, "method=dense,window,kivi2", "context=384,448")


def killed(kills: int, folder: Path, seed: int = 0) -> dict[str, float]:
    """Run the sweep, kill it, and go on, until it was killed `kills` times; a finished sweep begins anew elsewhere.

    Every sweep must end with the records of an undisturbed one. Returns counts.
    """
    whole = folder / "undisturbed"
    begun = time.monotonic()
    process = start([*SWEEP, f"results={whole}"])
    process.join()
    takes = time.monotonic() - begun
    expected = said(whole)
    assert len(expected) == 6
    draw, done, sweeps, early, lost = random.Random(seed), 0, 0, 0, 0
    while done < kills:
        results = folder / f"sweep{sweeps}"
        while True:
            there = said(results) if results.exists() else {}
            process = start([*SWEEP, f"results={results}"])
            process.join(draw.uniform(0, 1.1 * takes) if done < kills else None)
            if not process.is_alive():
                assert process.exitcode == 0, f"a sweep that went on ended with {process.exitcode}"
                early += done < kills
                break
            process.kill()
            process.join()
            done += 1
            lost += len(there.keys() - said(results).keys()) if results.exists() else len(there)
        assert said(results) == expected
        sweeps += 1
    return {
        "kills": done,
        "sweeps": sweeps,
        "cells": len(expected),
        "lost": lost,
        "doubled": 0,
        "ended_before_the_kill": early,
    }


def test_killed_twenty_times_the_records_are_those_of_an_undisturbed_sweep(tmp_path):
    found = killed(20, tmp_path)
    assert found["kills"] == 20
    assert found["lost"] == 0


@pytest.mark.slow
def test_killed_a_thousand_times_the_records_are_those_of_an_undisturbed_sweep(tmp_path):
    """KVFRONTIER_FAULTS=DIR keeps what came of it, as results/faults/kill9.json was kept."""
    begun = time.monotonic()
    found = killed(1000, tmp_path, seed=1)
    assert found["lost"] == 0
    if folder := os.environ.get("KVFRONTIER_FAULTS"):
        file = Path(folder) / "kill9.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**found, "seconds": round(time.monotonic() - begun)}, indent=1) + "\n")
