"""TensorBoard, by what its own library reads back. `make test-launchers` brings it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from kvfrontier.runners.record import Record, load_records
from kvfrontier.runners.tracker import track
from kvfrontier.runners.tracker.metrics import numbers

pytestmark = [pytest.mark.launchers, pytest.mark.slow, pytest.mark.filterwarnings("default")]

PUBLISHED = Path(__file__).parents[3] / "results" / "cpu-2core" / "quickstart"


@pytest.fixture
def records() -> list[Record]:
    (file,) = PUBLISHED.glob("smollm2-135m-window-*.jsonl")
    return [r for r in load_records(file) if r.cell.task["name"] == "perplexity"]


def test_tensorboard_reads_every_number_at_its_context(tmp_path, records):
    with track(
        {"name": "tensorboard", "folder": None}, name="window", config={"model": "m"}, folder=tmp_path
    ) as tracker:
        for record in records:
            tracker.log(record)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing import event_accumulator  # pyright: ignore[reportMissingImports]

        found = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "window"))
        found.Reload()
    for key in numbers(records[0]):
        shown = {event.step: event.value for event in found.Scalars(key)}
        assert shown == pytest.approx({r.cell.context: float(numbers(r)[key]) for r in records}, rel=1e-6)
    assert "config/text_summary" in found.Tags()["tensors"]
