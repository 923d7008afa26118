"""What the report says of workloads, computed from made-up records."""

from typing import Any

import pytest

from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report import write_report
from kvfrontier.analysis.scenarios import scenarios
from kvfrontier.runners.record import Cell, Environment, Memory, MethodInfo, Parts, Quality, Record, Time

MIB = 1 << 20


def record(
    workload: str, method: str, payload: int, *, batch: int = 1, layout: str = "packed", **memory: Any
) -> Record:
    held = {"live_payload": payload, "live_slack": 0, "weights": 100 * MIB, "prefill_peak": 140 * MIB,
            "decode_peak": 130 * MIB, "bytes_read": payload // batch, "prompt_tokens": 100,
            "prefill_parts": Parts(weights=100 * MIB, activations=8 * MIB * batch, state=4 * MIB)}  # fmt: skip
    return Record(
        id=f"{workload}-{method}",
        created="2026-11-23T12:00:00Z",
        cell=Cell(model="m", dtype="float32", device="cpu", method={"name": method}, task={"name": "none"},
                  protocol={"chunk": 512}, context=16_000 // batch, batch=batch,
                  workload={"name": workload, "layout": "packed"}),
        info=MethodInfo(family="store", label=method),
        method_hash="h",
        protocol_hash="p",
        environment=Environment(device_name="EPYC", device_kind="cpu", threads=2, platform="Linux", python="3.11",
                                torch="2.13.0", transformers="5.23.0", kvfrontier="0.1.0"),
        config={},
        quality=Quality(status="skipped"),
        memory=Memory(status="ok", **{**held, **memory}),
        time=Time(status="skipped"),
    )  # fmt: skip


@pytest.fixture
def records() -> list[Record]:
    return [
        record("batch_short", "dense", 64 * MIB, batch=32, prefill_peak=400 * MIB),
        record("batch_short", "window", 32 * MIB, batch=32),
        record("single_long", "dense", 64 * MIB, live_slack=16 * MIB),
        record("single_long", "window", MIB),
        record("batch_short", "int4", 20 * MIB, batch=32),
        record("single_long", "int4", 10 * MIB),
        record("rag", "dense", 80 * MIB, batch=8, shared_tokens=700),
        record("rag", "paged", 10 * MIB, batch=8, shared_tokens=700, bytes_read=10 * MIB),
        record("code_completion", "dense", 9 * MIB, batch=8, padding_tokens=900),
    ]


def test_each_sentence_says_what_the_records_hold(records):
    (one,) = scenarios(records)
    cache, prefill, longest, sharing, padding, unused = one.words
    assert "as many tokens are as many bytes, in one row or in 32: dense 64.0 MiB" in cache
    assert "window holds as much for each row whatever its length: 32.0 MiB in 32 rows, 1.00 MiB in one" in cache
    assert "int4 holds some of each row apart: 20.0 MiB in 32 rows, 10.0 MiB in one" in cache
    assert "dense 300 MiB (activations 256 MiB) against 40.0 MiB (8.00 MiB)" in prefill
    assert "dense 2.00 MiB against 64.0 MiB" in longest
    assert sharing == (
        "In rag 700 tokens are of a prefix that another request has too; forks hold it once with paged 10.0 MiB, where "
        "rows apart would hold 80.0 MiB; they copy what there is of it with dense 80.0 MiB."
    )
    assert "code_completion: prompts of 100 tokens, and 900 of padding that are spared where rows are packed" in padding
    assert "dense at most 20.0% (16.0 MiB, in single_long); int4 none; window none; paged none" in unused


def test_what_was_not_measured_is_not_spoken_of(records):
    (one,) = scenarios([r for r in records if r.cell.workload and r.cell.workload["name"] == "rag"])
    assert len(one.words) == 2
    assert not scenarios([])


def test_what_ran_out_of_memory_has_a_line_and_no_number(records):
    lost = records[0].model_copy(update={"memory": Memory(status="oom", reason="no room")})
    (one,) = scenarios([lost, *records[1:]])
    assert one.rows[0][:5] == ("batch_short", "dense", "32", "500", "out of memory")
    assert "dense" not in one.words[0]


def test_workloads_stand_on_no_board_and_in_the_report(records, tmp_path):
    assert boards(records) == []
    written = write_report(records, tmp_path)
    assert {"leaderboard.md", "leaderboard.csv", "report.html"} <= {path.name for path in written}
    assert not any(path.suffix == ".png" for path in written)
    assert "## Workloads: m on EPYC" in (tmp_path / "leaderboard.md").read_text()
    assert "in one row or in 32" in (tmp_path / "report.html").read_text()
