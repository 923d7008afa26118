"""What a submission may not be: each lie is found, and is told in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.record import load_records, record_files
from kvfrontier.runners.submission import reading
from kvfrontier.runners.submission.invariants import problems
from kvfrontier.runners.submission.show import validate

RESULTS = Path(__file__).parents[3] / "results"


def found(*paths: Path, **about) -> list[str]:
    return [problem.problem for problem in validate(paths, **about).problems]


def test_a_record_as_it_was_written_has_no_problem(line, file) -> None:
    assert found(file(line)) == []


def test_nor_has_any_that_is_published() -> None:
    """But for scores of a task that has changed since, which a report leaves out."""
    records = load_records(*record_files(RESULTS / "cpu-2core" / "quickstart"))
    wrong = {r.id[:8]: [p for p in problems(r) if not p.startswith("scored by")] for r in records}
    assert len(wrong) > 40 and not any(wrong.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cell__context": 512}, "id is"),
        ({"method_hash": "f" * 64}, "id is"),
        ({"memory__live_payload": 1}, "analytic payload is"),
        ({"memory__analytic_slack": 7}, "analytic slack is"),
        ({"memory__peak": 1}, "peak is 1"),
        ({"memory__peak": 1, "memory__prefill_peak": 1, "memory__decode_peak": 1}, "below weights and live state"),
        ({"memory__bytes_read": -1}, "memory.bytes_read is -1"),
        ({"memory__prompt_tokens": 3}, "the context is"),
        ({"time__prefill__q1": -1.0}, "not positive"),
        ({"time__decode__q3": 0.0}, "not in order"),
        ({"time__repetitions": 9}, "time says 9"),
        ({"time__mbu": 0.0}, "time.mbu"),
        ({"quality__scores__accuracy__value": 0.5}, "its results give"),
        ({"quality__scores__accuracy__n": 60}, "there are 6"),
        ({"quality__scores__accuracy__low": 0.9}, "outside its interval"),
        ({"quality__scores__accuracy__value": math.nan}, "not a number"),
        ({"quality__task_hash": "0" * 16}, "run it again, or rescore it"),
        ({"quality__sample_set": ""}, "no sample set"),
        ({"protocol_hash": "x"}, "protocol_hash"),
        ({"cell__protocol": {"chunk": 512}}, "does not say decode_tokens"),
        ({"environment__device_name": " "}, "device_name is empty"),
        ({"environment__device_kind": "cuda"}, "of kind cuda"),
        ({"created": "2099-01-01T00:00:00+00:00"}, "in the future"),
        ({"created": "yesterday"}, "which is no time"),
        ({"cell__method": {"name": "mine"}}, "there is no method 'mine'"),
        ({"verdict": "best"}, "not a record"),
        ({"schema_version": 99}, "upgrade kvfrontier"),
        ({"info__label": "dense\x1b[2J"}, "control character"),
        ({"info__label": "x" * (reading.TEXT + 1)}, "a text of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lie_is_found(changes, said, changed, file) -> None:
    told = found(file(changed(**changes)))
    assert any(said in problem for problem in told), told


def test_one_record_stands_once(line, file) -> None:
    assert "stands in" in found(file(line, line))[0]


def test_nor_beside_those_that_are_there(line, file) -> None:
    first, second = file(line, name="first.jsonl"), file(line, name="second.jsonl")
    assert found(second, against=load_records(first)) != []


def test_what_failed_may_be_tried_again(line, changed, file) -> None:
    failed = changed(quality__status="failed", quality__reason="interrupted", quality__scores={}, quality__samples=[])
    assert found(file(failed, line)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe\n", "not JSON"),
        (b'{"a": 1, "a": 2}\n', "stands twice"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[" * 40 + b"]" * 40 + b"\n", "nested deeper"),
        (b"{}\n", "not a record"),
        (b"\n", "no record"),
    ],
    ids=["bytes", "twice", "deep", "nested", "empty", "nothing"],
)
def test_what_is_no_record_is_told_and_not_raised(text, said, file) -> None:
    assert any(said in problem for problem in found(file(text)))


def test_a_line_that_never_ends_is_not_read(file, monkeypatch) -> None:
    monkeypatch.setattr(reading, "LINE", 1000)
    assert "longer than" in found(file(b"x" * 5000))[0]


def test_nor_is_a_file_that_is_too_large(file, monkeypatch) -> None:
    monkeypatch.setattr(reading, "FILE", 10)
    assert "split it" in found(file(b"{}\n" * 10))[0]


def test_the_command_ends_with_1_where_something_is_wrong(line, changed, file, capsys) -> None:
    good, bad = file(line, name="good.jsonl"), file(changed(memory__peak=1), name="bad.jsonl")
    assert cli.main(["validate", str(good)]) == 0
    assert "problems: 0" in capsys.readouterr().out
    assert cli.main(["validate", str(bad), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["line"] == 1
    assert cli.main(["validate", str(good.parent / "none.jsonl")]) == 2
