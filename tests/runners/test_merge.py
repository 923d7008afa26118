"""One folder of records from several."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.merge import merge
from kvfrontier.runners.record import BadRecords, NewerSchema, TornLine, load_records

PUBLISHED = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def line() -> dict:
    return json.loads(next(PUBLISHED.rglob("*.jsonl")).read_text().splitlines()[0])


def write(file: Path, *records: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def of(line: dict, id: str, created: str = "2026-01-01", device: str = "EPYC", **quality) -> dict:
    environment = {**line["environment"], "device_name": device}
    return {
        **line, "id": id, "created": created, "environment": environment, "quality": {**line["quality"], **quality},
    }  # fmt: skip


def test_the_union_is_what_reading_all_of_them_gives(tmp_path, line):
    """Random folders with repetitions, failures and clocks that disagree, against load_records, line by line."""
    draw, folders = random.Random(0), [tmp_path / name for name in "abc"]
    states = ("ok", "failed")
    for folder in folders:
        for name in ("one", "two"):
            records = [
                of(line, f"{draw.randrange(30)}", f"2026-01-0{draw.randrange(1, 9)}", status=draw.choice(states))
                for _ in range(25)
            ]  # fmt: skip
            write(folder / f"{name}.jsonl", *records)
    expected = {r.id: r for r in load_records(*folders)}
    found = merge(folders, tmp_path / "all")
    assert {r.id: r for r in load_records(tmp_path / "all")} == expected
    assert sum(found.records.values()) == len(expected)
    assert found.repeated == 150 - len(expected)
    lines = [x for file in (tmp_path / "all").rglob("*.jsonl") for x in file.read_text().splitlines()]
    assert len(lines) == len(expected)


def test_devices_stay_apart(tmp_path, line):
    write(tmp_path / "a" / "dense.jsonl", of(line, "1"), of(line, "2", device="NVIDIA H100"))
    write(tmp_path / "b" / "dense.jsonl", of(line, "3", device="NVIDIA H100"))
    found = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert found.records == {"EPYC": 1, "NVIDIA H100": 2}
    assert [r.id for r in load_records(tmp_path / "all" / "nvidia-h100")] == ["2", "3"]
    assert [r.id for r in load_records(tmp_path / "all" / "epyc")] == ["1"]


def test_conflicts_are_shown_and_times_are_none(tmp_path, line, capsys):
    other = {"agreement": {**next(iter(line["quality"]["scores"].values())), "value": 0.123}}
    slower = {**of(line, "2"), "seconds": 99.0}
    a = write(tmp_path / "a.jsonl", of(line, "1"), of(line, "2"), of(line, "3", status="failed"))
    b = write(tmp_path / "b.jsonl", of(line, "1", "2026-02-01", scores=other), slower, of(line, "3"))
    assert cli.main(["merge", str(a), str(b), "-o", str(tmp_path / "all")]) == 0
    out = capsys.readouterr().out
    assert "conflicts: 1;" in out
    assert "quality.scores" in out
    assert "0.123" in out
    assert json.loads((tmp_path / "all" / "conflicts.json").read_text()) == ["1"]
    kept = {r.id: r for r in load_records(tmp_path / "all")}
    assert kept["1"].quality.scores["agreement"].value == 0.123
    assert kept["3"].quality.status == line["quality"]["status"]


def test_a_line_is_copied_as_it_was(tmp_path, line):
    text = json.dumps(of(line, "1", samples=[{"text": "naïve \u2028 line\\n", "x": 1.50}]), ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\n{text}")
    merge([tmp_path / "a.jsonl"], tmp_path / "all")
    (copied,) = (tmp_path / "all").rglob("*.jsonl")
    assert copied.read_text() == text + "\n"


def test_what_is_no_record_is_said_with_its_place(tmp_path, line):
    whole = json.dumps(of(line, "1"))
    file = tmp_path / "a.jsonl"
    file.write_text(f"{whole}\n{whole[:60]}")
    with pytest.warns(TornLine, match=r"a\.jsonl, line 2: the last line is torn"):
        assert merge([file], tmp_path / "torn").records == {"EPYC": 1}
    file.write_text(f"{whole}\n{whole[:60]}\n{whole}\n")
    with pytest.raises(BadRecords, match=r"a\.jsonl, line 2: not a record"):
        merge([file], tmp_path / "bad")
    write(file, {**of(line, "1"), "schema_version": 99})
    with pytest.raises(NewerSchema, match=r"line 1: schema version 99, .* upgrade"):
        merge([file], tmp_path / "newer")
    assert not list(tmp_path.glob(".*")), "a merge that failed leaves nothing"


def test_a_folder_that_is_there_is_left_alone(tmp_path, line):
    file = write(tmp_path / "a.jsonl", of(line, "1"))
    write(tmp_path / "all" / "mine.jsonl", of(line, "2"))
    with pytest.raises(UsageError, match="is there already; name a new folder"):
        merge([file], tmp_path / "all")
    (tmp_path / "empty").mkdir()
    with warnings.catch_warnings():
        assert merge([file], tmp_path / "empty").records == {"EPYC": 1}
    with pytest.raises(UsageError, match="there are no records"):
        merge([tmp_path / "nothing"], tmp_path / "none")
