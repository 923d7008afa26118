"""Who works on what: one owner at a time, whatever dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvfrontier.runners.sweep import claims
from kvfrontier.runners.sweep.claims import FOLDER, Held, Lost, Watch, claimed, current

OWNER = """
import sys, time
from pathlib import Path
from kvfrontier.runners.sweep.claims import claimed
with claimed(Path(sys.argv[1]), "job") as claim:
    print("mine" if claim else "taken", flush=True)
    time.sleep(60)
"""


def owner(results: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER, str(results)], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_job_has_one_owner_and_a_dead_owner_has_none(tmp_path):
    with owner(tmp_path) as other:
        assert first_line(other) == "mine"
        with claimed(tmp_path, "job") as claim, claimed(tmp_path, "another") as free:
            assert claim is None
            assert free is not None
        other.kill()
    with claimed(tmp_path, "job") as claim:
        assert claim is not None
        assert claim.number == 2
    with claimed(tmp_path, "job") as claim:
        assert claim is not None


def elsewhere(results: Path, number: int = 1, **said: object) -> None:
    """A claim of another machine."""
    (results / FOLDER).mkdir(exist_ok=True)
    content = {"host": "other", "where": "other boot", "pid": 1, "process": "7", **said}
    (results / FOLDER / f"job.{number:06}").write_text(json.dumps(content))


def test_an_owner_elsewhere_is_dead_when_its_beat_stops_by_the_observers_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    watch = Watch()

    def dead() -> bool:
        return watch.dead(current(tmp_path)["job"])

    elsewhere(tmp_path, beat=1)
    assert not dead()
    now[0] += claims.DEAD_SECONDS - 1
    elsewhere(tmp_path, beat=2)  # it beats, however late, and whatever time it says it is
    assert not dead()
    now[0] += claims.DEAD_SECONDS - 1
    assert not dead()
    now[0] += 2
    assert dead()


def test_what_was_written_before_the_clock_was_set_back_does_not_count(tmp_path):
    """Claims hold no times, so that nothing can lie in the future."""
    with claimed(tmp_path, "job"):
        pass
    (file,) = (tmp_path / FOLDER).iterdir()
    os.utime(file, (2**32, 2**32))
    with claimed(tmp_path, "job") as claim:
        assert claim is not None


def test_who_stood_still_and_was_replaced_writes_nothing_more(tmp_path):
    with claimed(tmp_path, "job") as claim:
        assert claim is not None
        claim.tell("a cell")
        elsewhere(tmp_path, claim.number + 1)
        with pytest.raises(Lost, match="took over job"):
            claim.check()
        with pytest.raises(Lost):
            claim.tell("another cell")


def test_of_many_that_want_a_dead_owners_job_one_has_it(tmp_path):
    elsewhere(tmp_path, done=True)
    script = OWNER.replace("time.sleep(60)", "sys.stdin.read()")
    command, pipe = [sys.executable, "-c", script, str(tmp_path)], subprocess.PIPE
    many = [subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) for _ in range(4)]
    said = [first_line(process) for process in many]
    for process in many:
        process.communicate("")
    assert sorted(said) == ["mine", "taken", "taken", "taken"]


def test_a_claim_that_its_owner_had_no_time_to_fill_is_a_claim(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "job.000001").touch()
    with claimed(tmp_path, "job") as claim:
        assert claim is None
    assert current(tmp_path) == {"job": Held("job", 1, {})}
