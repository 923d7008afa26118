"""Searches in the report: walls stand apart, and the largest batch is a column."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvfrontier.analysis import wall
from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.figures.wall import wall_figure
from kvfrontier.analysis.report import write_report
from kvfrontier.analysis.report.tables import markdown
from kvfrontier.runners.record import Limit, Memory, Probe, Quality, Quartiles, Record, Search, Time

LIMIT = Limit(bytes=1 << 30, enforced="rlimit", baseline=300 << 20)


def probes(per_token: int, fixed: int, sizes: list[int], failing: list[int]) -> tuple[Probe, ...]:
    held = [fixed + n * per_token for n in sizes]
    fitted = [
        Probe(size=n, status="ok", state=h, bytes_read=h, decode=1e-2 + n * 1e-6)
        for n, h in zip(sizes, held, strict=True)
    ]
    return (*fitted, *(Probe(size=n, status="oom", reason="no memory") for n in failing))


def searched(plain: Record, name: str, **changes: Any) -> Record:
    """A record of a search, on the setting of a plain one."""
    search = {"name": name, "start": 1024, "most": 1 << 20, "step": 512, "beyond_positions": True, "weights": "random"}
    cell = plain.cell.model_copy(
        update={"task": {"name": "none", "version": 1}, "memory_limit": 1 << 30, "search": search}
        | ({"context": 0} if name == "max_context" else {})
    )
    blocks = {
        "quality": Quality(status="skipped"), "memory": Memory(status="ok"), "time": Time(status="ok"), "limit": LIMIT,
    }  # fmt: skip
    return plain.model_copy(update={"cell": cell, "id": f"{plain.id}{name}", **blocks, **changes})


@pytest.fixture
def dense_wall(records) -> Record:
    tries = probes(1000, 0, [1024, 2048, 4096, 6144, 6656], [8192, 7168])
    found = Search(
        kind="max_context", found=6656, bound="memory", predicted=7168, predicted_bound="memory", step=512, probes=tries
    )
    dense = next(r for r in records if r.info.label == "dense")
    return searched(dense, "max_context", search=found)


@pytest.fixture
def window_wall(records) -> Record:
    tries = probes(0, 256_000, [1024, 2048, 4096, 8192], [])
    found = Search(
        kind="max_context", found=8192, bound="most", predicted=8192, predicted_bound="most", step=512, probes=tries
    )
    window = next(r for r in records if r.info.bounded)
    return searched(window, "max_context", search=found)


def test_a_search_for_the_context_is_no_row(records, dense_wall):
    with_it, without = boards([*records, dense_wall]), boards(records)
    assert [board.rows for board in with_it] == [board.rows for board in without]
    assert boards([dense_wall]) == []


def test_what_was_found_and_predicted_stands_in_the_table(dense_wall, window_wall):
    (one,) = wall.walls([window_wall, dense_wall])
    assert [dict(zip(wall.COLUMNS, row, strict=True)) for row in one.rows] == [
        {
            "method": "dense", "longest context": "6,656", "stopped by": "memory", "predicted": "7,168",
            "state there": "6.35 MiB", "bytes read": "6.35 MiB", "decode there": "16.7 ms",
        },
        {
            "method": window_wall.info.label, "longest context": "8,192", "stopped by": "the search's own end",
            "predicted": "8,192", "state there": "250 KiB", "bytes read": "250 KiB", "decode there": "18.2 ms",
        },
    ]  # fmt: skip
    assert "Limit 1.00 GiB, by RLIMIT_DATA" in one.words
    assert "300 MiB of it were taken before the model was loaded" in one.words
    assert "Random weights" in one.words
    assert "Past the positions" in one.words


def test_other_limits_are_other_walls(dense_wall, window_wall):
    cell = window_wall.cell.model_copy(update={"memory_limit": 2 << 30})
    assert len(wall.walls([dense_wall, window_wall.model_copy(update={"cell": cell})])) == 2


def test_the_newest_search_of_a_method_counts(dense_wall):
    assert dense_wall.search is not None
    newer = dense_wall.model_copy(
        update={"id": "newer", "created": "2099-01-01T00:00:00+00:00"}
        | {"search": dense_wall.search.model_copy(update={"found": 6144})}
    )
    (one,) = wall.walls([newer, dense_wall])
    assert [row[1] for row in one.rows] == ["6,144"]


def test_a_search_that_failed_says_why(dense_wall):
    failed = dense_wall.model_copy(
        update={
            "search": Search(kind="max_context", step=512),
            "time": Time(status="failed", reason="KeyError: 'gate'"),
            "memory": Memory(status="failed"),
        }
    )
    (one,) = wall.walls([failed])
    assert one.rows[0][1:3] == ("failed", "KeyError: 'gate'")
    assert wall_figure(one) is None


def _list(values: Any) -> list[float]:
    return list(values)


def test_the_figure_draws_flat_lines_flat_and_crosses_the_wall(dense_wall, window_wall):
    (one,) = wall.walls([dense_wall, window_wall])
    drawing = wall_figure(one)
    assert drawing is not None
    left, right = drawing.figure.axes
    lines = {line.get_marker(): line for line in left.lines if len(_list(line.get_xdata())) == 4}
    (flat,) = (line for line in lines.values() if len(set(_list(line.get_ydata()))) == 1)
    assert _list(flat.get_xdata()) == [1024, 2048, 4096, 8192]
    for axes in (left, right):
        crossed = [_list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"]
        assert crossed == [[6656]]
    assert "dense 1000 KiB to 6.35 MiB" in drawing.words


@pytest.mark.parametrize("alone", [True, False])
def test_the_report_has_the_wall_with_or_without_boards(records, dense_wall, window_wall, tmp_path, alone):
    dense = [r for r in records if r.info.label == "dense"]
    given = [dense_wall, window_wall] if alone else [*dense, dense_wall, window_wall]
    written = {path.name for path in write_report(given, tmp_path)}
    assert {"wall.png", "wall.svg", "leaderboard.md", "report.html"} <= written
    text = (tmp_path / "leaderboard.md").read_text()
    (stood,) = json.loads((tmp_path / "data" / "page.json").read_text())["walls"]
    assert "| dense | 6,656 | memory | 7,168 |" in text
    assert "](wall.png)" in text
    assert stood["rows"][0][:2] == ["dense", "6,656"]
    assert [(one["method"], one["hit"], one["points"][-1]["context"]) for one in stood["series"]] == [
        ("dense", True, 6656),
        ("window", False, 8192),
    ]


def test_the_largest_batch_is_a_column_of_its_method(records):
    plain = next(r for r in records if r.info.label == "dense" and r.memory.status == "ok")
    took = Quartiles(median=0.1, q1=0.1, q3=0.1, n=1)
    fast = searched(
        plain,
        "max_throughput",
        search=Search(kind="max_throughput", found=24, bound="memory", predicted=26, predicted_bound="memory", step=1),
        time=Time(status="ok", decode=took, decode_tokens_per_second=240.0),
    )
    (board, *_) = boards([*records, fast])
    rows = {(row.method, row.context): row for row in board.rows}
    assert rows["dense", plain.cell.context].largest_batch == fast
    assert rows["dense", plain.cell.context].time == plain.time
    assert sum(row.largest_batch is not None for row in board.rows) == 1
    text = markdown([(board, {})], {})
    assert "tokens/s, largest batch" in text
    assert "240 (batch 24 in 1.00 GiB)" in text
