"""Answers that are stored are scored again; nothing is lost, and nothing is put beside what it may not stand beside."""

from __future__ import annotations

import pytest

from kvfrontier.runners.record import Record, Rescored, Score, append, load_records
from kvfrontier.runners.review.rescore import NoAnswers, rescore
from kvfrontier.runners.tasks.multi_turn import MultiTurn
from kvfrontier.runners.tasks.needle import Needle
from kvfrontier.runners.tasks.ruler.niah import NiahMultivalue


@pytest.fixture
def answered(record_of) -> Record:
    """Four answers: right, wrong, right among words, none; and grades that say otherwise."""
    said = [": 1234567.", "7654321", "1234567", ""]
    samples = [
        {"depth": 0.5, "targets": ["1234567"], "generation": text, "correct": False, "recall": 0.0, "stale": 1}
        for text in said
    ]
    return record_of(Needle(samples=4), samples)


@pytest.fixture
def scored(answered) -> Record:
    """The same, with the score that its grades make."""
    none = Score(value=0, n=4, low=0, high=0.49, interval="wilson")
    return answered.model_copy(update={"quality": answered.quality.model_copy(update={"scores": {"accuracy": none}})})


def test_grades_and_scores_are_those_of_the_task_now(answered):
    found = rescore(answered)
    quality = found.after.quality
    assert [sample["correct"] for sample in quality.samples] == [True, False, True, False]
    assert [sample["recall"] for sample in quality.samples] == [1, 0, 1, 0]
    assert quality.scores["accuracy"].value == 0.5
    assert quality.scores["accuracy"].interval == "wilson"
    assert found.regraded == [0, 1, 2, 3]  # of two the grade itself, of all what was known of it
    assert "stale" not in quality.samples[0]
    assert quality.samples[0]["depth"] == 0.5
    assert found.after.id == answered.id
    assert found.after.created > answered.created
    assert not found.after.moved


def test_what_ruler_contains_is_found_in_any_case(record_of):
    samples = [{"targets": ["1111111", "2222222"], "generation": "They are 1111111 and 3333333", "recall": 1.0}]
    assert rescore(record_of(NiahMultivalue(samples=1), samples)).after.quality.scores["recall"].value == 0.5


def test_scoring_again_twice_keeps_where_the_answers_come_from(answered):
    once = rescore(answered).after
    twice = rescore(once)
    assert (
        twice.after.quality.rescored
        == once.quality.rescored
        == Rescored(created=answered.created, task_version=1, task_hash=Needle().hash())
    )
    assert twice.after.quality.scores == once.quality.scores
    assert not twice.changed


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "oom"}, "quality is oom"),
        ({"samples": ({"correct": True},)}, "stores no answers"),
    ],
)
def test_what_has_no_answers_is_passed_over_with_its_reason(answered, changes, why):
    record = answered.model_copy(update={"quality": answered.quality.model_copy(update=changes)})
    with pytest.raises(NoAnswers, match=why):
        rescore(record)


def test_a_parameter_that_the_task_no_longer_has_is_a_reason(answered):
    cell = answered.cell.model_copy(update={"task": {"name": "needle", "depht": 1}})
    with pytest.raises(NoAnswers, match="did you mean 'depth'"):
        rescore(answered.model_copy(update={"cell": cell}))


@pytest.mark.parametrize("how", ["version", "hash"])
def test_answers_to_another_version_are_scored_but_no_table_takes_them(answered, how):
    cell, quality = answered.cell, answered.quality
    if how == "version":
        cell = cell.model_copy(update={"task": {**cell.task, "version": 0}})
        quality = quality.model_copy(update={"task_version": 0})
    quality = quality.model_copy(update={"task_hash": "0123456789abcdef"})
    old = answered.model_copy(update={"cell": cell, "quality": quality})
    new = rescore(old).after
    assert not old.moved
    assert new.moved
    assert new.quality.task_hash == Needle().hash()
    assert new.quality.rescored == Rescored(
        created=old.created, task_version=old.quality.task_version, task_hash="0123456789abcdef"
    )


def test_the_command_prints_what_changed_and_writes_a_new_file_only(scored, kvfrontier, tmp_path):
    there, out = tmp_path / "there.jsonl", tmp_path / "new" / "again.jsonl"
    append(there, scored)
    before = there.read_bytes()
    said = kvfrontier("rescore", str(there), "-o", str(out))
    assert said.code == 0
    assert "scored again: 1, changed: 1" in said.out
    assert there.read_bytes() == before
    assert load_records(there)[0].quality.scores["accuracy"].value == 0
    # Read together, the newer scores count.
    assert load_records(tmp_path)[0].quality.scores["accuracy"].value == 0.5
    again = kvfrontier("rescore", str(there), "-o", str(out))
    assert again.code == 2
    assert "exists, and rescore overwrites nothing" in again.err
    (row,) = kvfrontier("rescore", str(there), "--json").json["rescored"]
    assert row["scores"]["accuracy"] == {"before": 0.0, "after": 0.5}
    assert row["task_hash"]["before"] == row["task_hash"]["after"]


def test_records_without_any_answer_are_bad_usage(answered, kvfrontier, tmp_path):
    quality = answered.quality.model_copy(update={"status": "failed"})
    append(tmp_path / "a.jsonl", answered.model_copy(update={"quality": quality}))
    said = kvfrontier("rescore", str(tmp_path))
    assert said.code == 2
    assert "nothing to score again" in said.err
    assert "quality is failed" in said.err


def test_every_turn_of_a_conversation_is_graded_again(record_of):
    sample = {"targets": ["1234567", "7654321", "1111111"], "generations": [" 1234567.", "7654321", "2"], "later": 0.0}
    quality = rescore(record_of(MultiTurn(samples=1, turns=3), [sample])).after.quality
    assert {name: score.value for name, score in quality.scores.items()} == {"first": 1, "later": 0.5, "drop": 0.5}
