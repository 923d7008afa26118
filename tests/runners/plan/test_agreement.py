import csv
from dataclasses import replace
from pathlib import Path

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.plan import agreement

PUBLISHED = Path(__file__).parents[3] / "results" / "cpu-2core" / "agreement"


@pytest.fixture
def two():
    """A cell of the smallest, and one that keeps its state on the host."""
    asked = {run.method["name"]: (model, run) for model, run in reversed(agreement.cells()) if model == "tiny"}
    return [asked["dense"], asked["offloaded"]]


def test_there_are_more_than_60_cells_of_method_context_chunk_batch_and_dtype():
    asked = agreement.cells()
    assert len(asked) >= 60
    for what in ("dtype", "batch", "chunk", "prompt"):
        assert len({getattr(run, what) for _, run in asked}) >= 2
    assert len({run.method["name"] for _, run in asked}) >= 10


def test_prediction_and_measurement_stand_side_by_side(two, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(agreement, "cells", lambda: two)
    assert cli.main(["plan", "--agreement", "--on", "cpu", "-o", str(tmp_path)]) == 0
    assert "2 of 2 cells agree" in capfd.readouterr().out
    page = (tmp_path / "agreement.md").read_text()
    assert "agree to the byte" in page
    row, _ = csv.DictReader((tmp_path / "agreement.csv").read_text().splitlines())
    assert row["predicted_prefill_peak"] == row["measured_prefill_peak"]
    assert int(row["workspace"]) >= 0


def test_one_byte_of_disagreement_is_a_failure(two, monkeypatch, tmp_path, capfd):
    real = agreement.peaks

    def wrong(run):
        found = real(run)
        parts = found.prefill_parts.model_copy(update={"activations": found.prefill_parts.activations + 1})
        return replace(found, prefill_parts=parts)

    monkeypatch.setattr(agreement, "cells", lambda: two[:1])
    monkeypatch.setattr(agreement, "peaks", wrong)
    assert cli.main(["plan", "--agreement", "--on", "cpu", "-o", str(tmp_path)]) == 1
    assert "0 of 1 cells agree" in capfd.readouterr().out


def test_the_published_table_agrees_in_every_cell():
    with (PUBLISHED / "agreement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 60
    for row in rows:
        assert row["agrees"] == "True"
        for what in ("state", "prefill_peak", "decode_peak"):
            assert row[f"predicted_{what}"] == row[f"measured_{what}"]
    page = (PUBLISHED / "agreement.md").read_text()
    assert "torch" in page


def test_where_to_write_must_be_said(capfd):
    assert cli.main(["plan", "--agreement"]) == 2
    assert "-o DIR" in capfd.readouterr().err
    assert cli.main(["plan"]) == 2
    assert "nothing to plan" in capfd.readouterr().err
