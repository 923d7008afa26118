"""How far sweeps are, from files alone."""

from __future__ import annotations

import json

import pytest

from kvfrontier.runners import cli, status
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.sweep import claims, manifest
from kvfrontier.runners.sweep.pace import Kind
from tests.runners.test_merge import PUBLISHED


@pytest.fixture
def results(tmp_path):
    """A sweep of four cells: one recorded, one failed, two to go."""
    lines = [json.loads(x) for file in sorted(PUBLISHED.rglob("*dense*.jsonl")) for x in file.read_text().splitlines()]
    done, failed = lines[0], {**lines[1], "quality": {**lines[1]["quality"], "status": "failed", "reason": "it broke"}}
    failed["command"] = "kvfrontier run method=dense context=1024"
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({**done, 'seconds': 60.0})}\n{json.dumps(failed)}\n")
    kind = Kind.of(done["cell"], done["info"]["label"])
    context = done["cell"]["context"]
    wanted = [
        manifest.Wanted(done["id"], "dense at 512", kind, context, 1),
        manifest.Wanted(failed["id"], "dense at 1024", kind, context, 1),
        *(manifest.Wanted(f"new{i}", f"dense {i}", kind, context, 1) for i in range(2)),
    ]
    manifest.write(tmp_path, wanted, ["method=dense"])
    return tmp_path


def test_counts_and_failures_with_what_runs_them_again(results):
    found = status.look(results, claims.Watch())
    assert (found.wanted, found.done, found.failed, found.running, found.to_go) == (4, 1, 1, 0, 2)
    assert found.left is None, "nothing runs"
    (failure,) = found.failures
    assert failure == {
        "cell": "dense at 1024", "reason": "it broke", "command": "kvfrontier run method=dense context=1024",
    }  # fmt: skip


def test_what_runs_is_seen_and_shortens_the_time_that_is_left(results):
    with claims.claimed(results, "job") as claim:
        assert claim is not None
        claim.tell("dense 0")
        found = status.look(results, claims.Watch())
        assert (found.running, found.to_go) == (1, 1)
        assert [(w.cell, w.silent) for w in found.workers] == [("dense 0", False)]
        assert found.left == pytest.approx(120, abs=1), "two cells of a minute, one process"
    assert status.look(results, claims.Watch()).workers == ()


def test_the_command_finds_sweeps_below_a_folder(results, capsys):
    assert cli.main(["status", str(results.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(s["folder"], s["to_go"]) for s in found if s["folder"] == str(results)] == [(str(results), 2)]
    assert cli.main(["status", str(results)]) == 0
    out = capsys.readouterr().out
    assert "not running" in out
    assert "again: kvfrontier run method=dense context=1024" in out


def test_a_watch_ends_when_all_is_done(results, capsys):
    for file in (results / claims.FOLDER).glob("plan-*"):
        note = json.loads(file.read_text())
        file.write_text(json.dumps({**note, "cells": note["cells"][:2]}))
    status.show([results], watching=True, every=0.01, as_json=False)
    assert "it broke" in capsys.readouterr().out


def test_a_folder_without_sweeps_is_said(tmp_path):
    with pytest.raises(UsageError, match="no sweep has written to"):
        status.show([tmp_path], watching=False, every=1, as_json=False)
