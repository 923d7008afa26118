"""Records: one id for one thing, and a file that loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import (
    BadRecords,
    Cell,
    Environment,
    Memory,
    MethodInfo,
    NewerSchema,
    Quality,
    Record,
    Score,
    Time,
    TornLine,
    append,
    canonical_json,
    check_writable,
    iter_records,
    load_records,
    record_id,
)


def cell(**changes) -> Cell:
    return Cell(
        **{
            "model": "tiny",
            "dtype": "float32",
            "device": "cpu",
            "method": {"name": "infini", "segment": 256, "gate": 0.0},
            "task": {"name": "needle"},
            "protocol": {"chunk": 512},
            "context": 1024,
            **changes,
        }
    )


def record(name: str = "a", created: str = "2026-11-23T12:00:00+00:00", **changes) -> Record:
    return Record(
        **{
            "id": name,
            "created": created,
            "cell": cell(),
            "info": MethodInfo(family="memory", label="infini"),
            "method_hash": "0",
            "protocol_hash": "0",
            "environment": Environment(
                device_name="EPYC",
                device_kind="cpu",
                threads=1,
                platform="Linux",
                python="3.11",
                torch="2.13.0",
                transformers="5.23.0",
                kvfrontier="0.1.0",
            ),
            "config": {"seed": 0},
            "quality": Quality(status="ok", scores={"loss": Score(value=float("inf"), n=3)}, samples=({"text": "ü"},)),
            "memory": Memory(status="ok", peak=1),
            "time": Time(status="skipped"),
            **changes,
        }
    )


# What identifies a record.


def identify(cell: Cell, **changes) -> str:
    known = {"method_hash": "m", "device_name": "EPYC", "torch_version": "2.13.0+cpu", "transformers_version": "5.23.0"}
    return record_id(cell, **{**known, **changes})


def test_every_part_of_a_cell_decides_its_id():
    changes = {
        "model": "other",
        "dtype": "bfloat16",
        "device": "cuda",
        "method": {"name": "infini", "segment": 128, "gate": 0.0},
        "task": {"name": "perplexity"},
        "protocol": {"chunk": None},
        "context": 2048,
        "batch": 2,
        "seed": 1,
        "budget": {"asked": "25%", "limit": 1000},
        "memory_limit": 1 << 30,
        "search": {"name": "max_context"},
        "workload": {"name": "chat"},
        "training": {"steps": 10},
    }
    assert set(changes) == set(Cell.model_fields)
    ids = {identify(cell())} | {identify(cell(**{key: value})) for key, value in changes.items()}
    assert len(ids) == 1 + len(changes)


def test_what_later_versions_added_to_a_cell_leaves_other_ids_as_they_were():
    """The published records were written before there were limits, searches and workloads."""
    published = load_records(Path(__file__).parents[2] / "results" / "cpu-2core" / "quickstart")
    assert published
    for r in published:
        here = r.environment
        assert r.id == record_id(r.cell, r.method_hash, here.device_name, here.torch, here.transformers)


def test_code_device_and_minor_versions_decide_it_and_patches_do_not():
    first = identify(cell())
    assert first == identify(cell(), torch_version="2.13.4", transformers_version="5.23.1.dev0")
    others = {"method_hash": "n", "device_name": "H200", "torch_version": "2.14.0", "transformers_version": "5.24.0"}
    assert all(first != identify(cell(), **{key: value}) for key, value in others.items())


def test_spelling_does_not_decide_it():
    same = {"gate": 0, "segment": 256, "name": "infini"}
    assert identify(cell()) == identify(cell(method=same))
    assert canonical_json({"b": (1.0, True), "a": "ü"}) == '{"a":"ü","b":[1,true]}'
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


# Files.


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "a.jsonl"
    written = [record("a"), record("b", quality=Quality(status="oom", reason="zu groß\nviel"))]
    for one in written:
        append(file, one)
    assert load_records(file) == written
    assert len(file.read_text().splitlines()) == 2


def test_folders_are_walked_and_no_file_is_read_twice(tmp_path):
    for name in ("b/x.jsonl", "a/deep/y.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        append(tmp_path / name, record(name))
    (tmp_path / "b/notes.txt").write_text("no record")
    read = [r.id for r in iter_records(tmp_path, tmp_path / "b", tmp_path / "b/x.jsonl")]
    assert read == ["a/deep/y.jsonl", "b/x.jsonl"]


def test_of_one_id_the_last_of_a_file_stands_whatever_the_clock_said(tmp_path):
    """A clock that was set back would otherwise let a failure stand before the run that mended it."""
    noon, two = (f"2026-11-23T{hour}:00:00+00:00" for hour in (12, 14))
    append(tmp_path / "a.jsonl", record("same", two, quality=Quality(status="failed")))
    append(tmp_path / "a.jsonl", record("same", noon))
    assert [(r.created, r.quality.status) for r in load_records(tmp_path)] == [(noon, "ok")]


def test_of_one_id_in_several_files_the_latest_stands_that_did_not_fail(tmp_path):
    noon, one, two = (f"2026-11-23T{hour}:00:00+00:00" for hour in (12, 13, 14))
    append(tmp_path / "a.jsonl", record("same", noon))
    append(tmp_path / "b.jsonl", record("same", one))
    assert [r.created for r in load_records(tmp_path)] == [one]
    append(tmp_path / "c.jsonl", record("same", two, quality=Quality(status="failed")))
    assert [r.created for r in load_records(tmp_path)] == [one]


def test_a_missing_path_is_said():
    with pytest.raises(UsageError, match="there are no records at nowhere"):
        load_records("nowhere")


@pytest.mark.parametrize("tail", [b'{"id": "half', b"\xc3", b"{}", b"\0" * 70_000])
def test_a_torn_last_line_is_set_aside_and_nothing_is_lost(tmp_path, tail):
    file = tmp_path / "a.jsonl"
    append(file, record("a"))
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    with pytest.warns(TornLine, match=r"a\.jsonl, line 2: the last line is torn"):
        assert [r.id for r in load_records(file)] == ["a"]
    assert file.read_bytes() == whole + tail, "reading changes nothing: the writer may still be at work"
    with pytest.warns(TornLine, match=r"it is kept in a\.jsonl\.torn"):
        append(file, record("b"))
    assert [r.id for r in load_records(file)] == ["a", "b"]
    assert (tmp_path / "a.jsonl.torn").read_bytes() == tail + b"\n"


def test_a_line_that_lacks_only_its_end_is_whole(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, record("a"))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert [r.id for r in load_records(file)] == ["a"]
    append(file, record("b"))
    assert [r.id for r in load_records(file)] == ["a", "b"]
    assert not (tmp_path / "a.jsonl.torn").exists()


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, record("a"))
    file.write_bytes(b"{broken\n" + file.read_bytes())
    with pytest.raises(BadRecords, match=r"a\.jsonl, line 1: not JSON .* remove or mend"):
        load_records(file)


def test_a_record_that_says_too_much_or_too_little_is_an_error(tmp_path):
    file = tmp_path / "a.jsonl"
    data = record().model_dump(mode="json")
    data["memory"]["peek"] = 3
    del data["cell"]["dtype"]
    file.write_text("\n" + json.dumps(data) + "\n")
    with pytest.raises(BadRecords, match=r"line 2: not a record \(cell\.dtype: .*; memory\.peek: "):
        load_records(file)


def test_records_of_schema_1_are_read_without_what_came_later(tmp_path):
    line = record(schema_version=1).model_dump(mode="json")
    for key in ("resident", "prefill_parts", "decode_parts"):
        del line["memory"][key]
    del line["quality"]["state"]
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(line) + "\n")
    (old,) = load_records(file)
    assert old.memory.peak == 1
    assert (old.memory.prefill_parts, old.quality.state) == (None, None)


@pytest.mark.parametrize("end", ["\n", ""])
def test_records_of_a_newer_schema_are_refused(tmp_path, end):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"schema_version": 99, "unheard_of": True}) + end)
    with pytest.raises(NewerSchema, match=r"line 1: schema version 99, .* upgrade kvfrontier"):
        load_records(file)


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to the folder .*file/results .*with results=DIR$"):
        check_writable(tmp_path / "file" / "results")
    with pytest.raises(UsageError, match=r"with -o DIR$"):
        check_writable(tmp_path / "file", "-o DIR")
    with pytest.raises(UsageError, match="cannot write"):
        check_writable("/proc/self")
    assert check_writable(tmp_path / "new" / "deep").is_dir()
    assert not list((tmp_path / "new" / "deep").iterdir()), "trying leaves nothing behind"


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    append(file, record("a"))
    before, write = file.read_bytes(), os.write

    def half(fd, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(fd, data[: len(data) // 2])

    monkeypatch.setattr("kvfrontier.runners.record.os.write", half)
    with pytest.raises(OSError, match="No space"):
        append(file, record("b"))
    assert file.read_bytes() == before


WRITER = """
import sys
from kvfrontier.runners.record import append, iter_records
base = next(iter_records(sys.argv[1]))
for i in range(int(sys.argv[3])):
    append(sys.argv[1], base.model_copy(update={"id": f"{sys.argv[2]}-{i}"}))
    print(i, flush=True)
"""


def start_writer(file: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_concurrent_writers_take_turns(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, record("base", config={"long": "x" * 50_000}))
    writers = [start_writer(file, name, 20) for name in "abc"]
    assert [writer.communicate()[0].count("\n") for writer in writers] == [20] * 3
    assert len(load_records(file)) == 61


def test_a_killed_writer_loses_at_most_the_line_it_was_writing(tmp_path):
    file = tmp_path / "a.jsonl"
    append(file, record("base"))
    with start_writer(file, "new", 10**6) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
        said = int(writer.stdout.read().split()[-1])
    file.write_bytes(file.read_bytes()[:-3])  # as if the kill had struck within a line
    with pytest.warns(TornLine):
        append(file, record("after"))
    there = {r.id for r in load_records(file)}
    assert {"base", "after", *(f"new-{i}" for i in range(said))} <= there


def test_reading_records_loads_no_torch():
    script = "import sys, kvfrontier.runners.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
