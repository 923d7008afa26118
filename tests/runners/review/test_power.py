"""How many samples: the worst case without records, and the measured spread with them."""

from __future__ import annotations

import pytest

from kvfrontier.runners.record import Score, append
from kvfrontier.runners.tasks.needle import Needle


def test_without_records_the_worst_case_is_told(kvfrontier):
    (worst,) = kvfrontier("power", "task=needle", "delta=0.1", "--json").json
    # 7.848880 (1 - 0.01) / 2 / 0.01
    assert (worst["method"], worst["to_tell"]) == (None, 389)
    assert "389" in kvfrontier("power", "task=needle", "delta=0.1").out


def test_records_say_by_how_much_answers_differ(kvfrontier, record_of, tmp_path):
    score = {"accuracy": Score(value=0.5, n=10)}
    right = {"dense": [1] * 10, "window": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}
    for method, answers in right.items():
        samples = [{"correct": bool(answer)} for answer in answers]
        append(tmp_path / "a.jsonl", record_of(Needle(samples=10), samples, method, scores=score))
    asked, where = ("power", "task=needle", "delta=0.1"), ("--json", "--records", str(tmp_path))
    worst, found = kvfrontier(*asked, *where).json
    assert worst["method"] is None
    assert (found["method"], found["context"], found["n"]) == ("window", 1024, 10)
    assert found["difference"] == pytest.approx(-0.3)
    assert found["deviation"] ** 2 == pytest.approx(0.21 * 10 / 9)
    assert found["to_tell"] == 184  # 7.848880 x 0.233333 / 0.01 = 183.14
    assert len(kvfrontier(*asked, "context=1024", *where).json) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("delta=0",), "between 0 and 1"),
        (("delta=x",), "between 0 and 1"),
        (("context=1,2",), "give one value"),
        (("task.depht=1",), "did you mean"),
        (("context=512", "--records"), "compares a method with dense"),
    ],
)
def test_what_cannot_be_said_is_bad_usage(kvfrontier, record_of, tmp_path, words, why):
    append(tmp_path / "a.jsonl", record_of(Needle(samples=1), [{"correct": True}]))
    more = (str(tmp_path),) if words[-1] == "--records" else ()
    said = kvfrontier("power", "task=needle", *words, *more)
    assert said.code == 2
    assert why in said.err
