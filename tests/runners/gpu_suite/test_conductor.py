"""A worker that hangs or dies costs its item, and nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.gpu_suite import conductor, page
from kvfrontier.runners.gpu_suite.journal import Entry, Journal, Status

WORKER = """
import os, sys, time
from pathlib import Path
from kvfrontier.runners.gpu_suite.journal import Entry, Journal
journal = Journal(Path(sys.argv[1]))
for name in ("a/first", "a/second", "a/third"):
    if name in journal.entries():
        continue
    journal.begin("a", name, limit=0.6)
    if name == "a/second":
        {act}
    journal.end(Entry(part="a", name=name, status="ok"))
"""


def conducted(folder: Path, act: str) -> Journal:
    """Workers that do `act` at their second item, started until all is done."""
    journal, script = Journal(folder), folder / "worker.py"
    script.write_text(WORKER.format(act=act))
    until = time.time() + 60
    for _ in range(4):
        if conductor._worker([sys.executable, str(script), str(folder)], journal, until):
            return journal
    raise AssertionError("the workers did not come to an end")


@pytest.mark.parametrize(
    ("act", "status", "reason"),
    [("time.sleep(600)", "timeout", "ended after"), ("os._exit(7)", "crashed", "exit code 7")],
)  # fmt: skip
def test_the_next_worker_goes_on_behind_what_ended_the_last(act: str, status: str, reason: str, tmp_path: Path) -> None:
    entries = conducted(tmp_path, act).entries()
    assert [(name, entry.status) for name, entry in entries.items()] == [
        ("a/first", "ok"), ("a/second", status), ("a/third", "ok"),
    ]  # fmt: skip
    assert reason in entries["a/second"].reason


def test_a_worker_that_never_begins_ends_the_suite(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert conductor._worker([sys.executable, "-c", "raise ImportError('no torch')"], journal, time.time() + 30)
    assert "no torch" in journal.entries()["worker"].reason


def test_a_device_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    act = "import sys; print('kvfrontier: no cuda here', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UsageError, match=r"^no cuda here$"):
        conductor._worker([sys.executable, "-c", act], Journal(tmp_path), time.time() + 30)


def test_a_torn_line_is_passed_over_and_not_joined_to_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.end(Entry(part="a", name="a/1", status="ok"))
    with journal.file.open("a") as file:
        file.write('{"part": "a", "na')
    journal.end(Entry(part="a", name="a/2", status="oom"))
    assert list(journal.entries()) == ["a/1", "a/2"]
    assert journal.done() == {"a/1", "a/2"}


def test_what_cannot_run_here_is_asked_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    found: list[tuple[str, Status]] = [("a/1", "refused"), ("a/2", "failed"), ("a/3", "timeout")]
    for name, status in found:
        journal.end(Entry(part="a", name=name, status=status))
    assert journal.done() == {"a/3"}


def test_files_that_cannot_travel_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvfrontier.runners.gpu_suite.journal.MOST_BYTES", 100)
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("x" * (i * 20))
    wrong = Journal(tmp_path).check_size()
    assert wrong == ["5.txt has 100 bytes", "6.txt has 120 bytes", "7.txt has 140 bytes", "8.txt has 160 bytes",
                     "there are 9 files"]  # fmt: skip


def point(name: str, median: float, **values: float) -> Entry:
    seconds = {"median": median, "q1": median, "q3": median, "n": 3}
    return Entry(part=name.split("/")[0], name=name, status="ok", values={"seconds": seconds, **values})


def test_targets_are_judged_by_the_faster_of_launched_and_graphed() -> None:
    graphed = point("curves/decode/sdpa/131072", 200e-6, mbu=0.5)
    graphed.values["graph_seconds"] = {"median": 105e-6}
    entries = [
        graphed, point("curves/decode/flash_attn/131072", 100e-6), point("curves/decode/int4 kernel/131072", 35e-6),
        point("curves/decode/flash_attn/32768", 30e-6, mbu=0.75), point("curves/decode/sdpa/32768", 30e-6, mbu=0.6),
        *(Entry(part="families", name=f"families/linear, fla/{n}", status="ok", values={"ttft": n * 1e-6})
          for n in (4096, 32768, 131072, 1048576)),
    ]  # fmt: skip
    found = {claim.split()[0]: value for claim, value, _, _ in page.goals({entry.name: entry for entry in entries})}
    assert found["dense"] == pytest.approx(1.05)
    assert found["decode"] == pytest.approx(3.0)
    assert found["share"] == 0.75
    assert found["exponent"] == pytest.approx(1.0)


def test_nothing_measured_reaches_nothing() -> None:
    assert all(value is None for _, value, _, _ in page.goals({}))
    assert page.exponent([(1024, 1.0)]) is None
