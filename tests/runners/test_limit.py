"""A limit on this process's memory: how it is asked for, enforced and counted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvfrontier.runners import limit
from kvfrontier.runners.errors import UsageError

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")


@linux
@pytest.mark.parametrize(
    ("asked", "n"), [("6GiB", 6 << 30), ("1500MB", 1_500_000_000), (1 << 20, 1 << 20), (None, None)]
)
def test_amounts_are_read(asked, n):
    assert limit.parse(asked, "cpu") == n


@pytest.mark.parametrize("asked", ["plenty", "0", "-1GiB", 0, "25%"])
def test_what_is_no_amount_is_refused(asked):
    with pytest.raises(UsageError, match="is no amount of memory; write bytes, 6GiB or 1500MB"):
        limit.parse(asked, "cpu")


def test_a_device_without_limits_is_refused():
    with pytest.raises(UsageError, match="not on this mps"):
        limit.parse("6GiB", "mps")


LIMITED = """
import torch
from kvfrontier.runners import limit
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.record import Memory

limit._groups = list  # by rlimit, also where groups can be written
def run(mib):
    torch.empty(mib << 20, dtype=torch.uint8)  # asked for, and never touched
    return Memory(status="ok")

before = limit.counted()
with limit.limited(before + (256 << 20), "cpu") as held:
    print(held.limit.enforced, held.limit.bytes - held.limit.baseline >> 20)
    print(guarded(Memory, lambda: run(64)).status)
    print(guarded(Memory, lambda: run(512)).status)
    print(guarded(Memory, lambda: run(64)).status)
print(guarded(Memory, lambda: run(512)).status)
kept = torch.ones(64 << 20, dtype=torch.uint8)
print(limit.counted() - before >= kept.nbytes, limit.resident_peak("cpu") >= limit.resident() >= kept.nbytes)
"""


@linux
def test_under_a_limit_memory_runs_out_and_the_work_goes_on():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    first, *rest = done.stdout.splitlines()
    assert rest == ["ok", "oom", "ok", "ok", "True True"], done.stderr
    kind, room = first.split()
    assert kind == "rlimit"
    assert 250 <= int(room) <= 256


@linux
def test_a_control_group_is_made_where_groups_can_be_written(tmp_path):
    (tmp_path / "no folder").write_text("")
    group = limit.enter_group(1 << 30, [tmp_path / "no folder", tmp_path / "absent", tmp_path])
    assert group is not None
    assert group.parent == tmp_path
    assert (group / "memory.max").read_text() == "1073741824\n"
    assert (group / "cgroup.procs").read_text().strip() == group.name.removeprefix("kvfrontier-")
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert limit.clear(group) == 2


@linux
def test_where_no_group_can_be_written_there_is_none(tmp_path):
    assert limit.enter_group(1 << 30, [tmp_path / "absent"]) is None
    assert limit.enter_group(1 << 30, []) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_group_leaves_counts_the_page_cache_that_it_would_give_back(monkeypatch, tmp_path):
    monkeypatch.setattr(limit, "_groups", lambda: [tmp_path])
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{60 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {10 << 20}\ninactive_file {40 << 20}\nactive_file {10 << 20}\n")
    assert limit.available() == 44 << 20
