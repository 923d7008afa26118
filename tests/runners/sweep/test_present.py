"""Records read quickly are the records read in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvfrontier.runners.record import BadRecords, NewerSchema, TornLine, load_records
from kvfrontier.runners.sweep.present import briefs

PUBLISHED = Path(__file__).parents[3] / "results"


def test_what_is_read_quickly_is_what_the_schema_reads():
    files = sorted(PUBLISHED.rglob("*.jsonl"))
    full = {r.id: r for r in load_records(*files)}
    quick = briefs(*files)
    assert quick.keys() == full.keys()
    for key, brief in quick.items():
        assert (brief.status, brief.label, brief.created) == (full[key].status, full[key].info.label, full[key].created)
        assert dict(brief.cell)["context"] == full[key].cell.context


def a_line() -> dict:
    file = next(PUBLISHED.rglob("*.jsonl"))
    return json.loads(file.read_text().splitlines()[0])


def test_no_folder_holds_no_records(tmp_path):
    assert briefs(tmp_path / "nowhere") == {}


def test_a_torn_last_line_is_passed_over_and_others_are_errors(tmp_path):
    file, line = tmp_path / "a.jsonl", json.dumps(a_line())
    file.write_text(f"{line}\n{line[:50]}")
    with pytest.warns(TornLine, match=r"a\.jsonl, line 2"):
        assert len(briefs(tmp_path)) == 1
    file.write_text(f"{line[:50]}\n{line}\n")
    with pytest.raises(BadRecords, match=r"a\.jsonl, line 1: not a record .* remove or mend"):
        briefs(tmp_path)
    file.write_text(json.dumps({**a_line(), "schema_version": 99}) + "\n")
    with pytest.raises(NewerSchema, match=r"line 1: schema version 99, .* upgrade"):
        briefs(tmp_path)
