"""No verdict is written by hand: every committed one is computed again, from the records beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvfrontier.analysis.reproduce import table
from kvfrontier.analysis.reproduce.comparison import scale
from kvfrontier.runners.reproduce.run import PAGE, TABLE, Reproduction, written

RESULTS = Path(__file__).parents[3] / "results"
FOLDERS = sorted(file.parent for file in RESULTS.rglob(TABLE) if "local" not in file.parts)


def test_verdicts_are_committed() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(RESULTS)))
def test_they_are_what_their_records_give(folder: Path) -> None:
    there = written(folder)
    assert there is not None
    at, words, names = there
    found = table.data(Reproduction.of(names, at, words, folder).judged(), scale(at), words)
    assert json.loads((folder / TABLE).read_text()) == json.loads(json.dumps(found))
    assert (folder / PAGE).read_text() == table.page(found)
