"""What may be read off a board: floors, differences from dense, and when a method is said to lose nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report import tables
from kvfrontier.analysis.report.standings import Standing, standings
from kvfrontier.analysis.stats import wilson


@pytest.fixture
def answered(cell_of):
    """(answers of each method to the same questions) -> their board, and its one standing."""

    def make(chance: float | None = 0.0, **methods: list[int]) -> tuple[Any, Standing]:
        found = []
        for label, right in methods.items():
            n, share = len(right), sum(right) / len(right)
            low, high = wilson(share, n)
            score = {"value": share, "n": n, "low": low, "high": high, "interval": "wilson"}
            changes = {
                "quality__samples": tuple({"correct": bool(answer)} for answer in right),
                "quality__scores": {"accuracy": score},
                "quality__chance": chance,
            }
            found.append(cell_of(label, 1024, "needle", **changes))
        (board,) = boards(found)
        (standing,) = standings(board).values()
        return board, standing

    return make


def column(board, title: str) -> dict[str, tables.Value]:
    (field,) = (f for f in tables.fields(board, standings(board)) if f.title == title)
    return {row.method: field.read(row) for row in board.rows}


def test_a_model_that_cannot_do_the_task_has_no_ranks_and_no_differences(answered):
    board, standing = answered(dense=[1] + [0] * 9, kivi4=[0] * 10, window=[1, 1] + [0] * 8)
    assert standing.floor == 0.2
    assert (standing.ranks, standing.differences) == ({}, {})
    assert "cannot do this task here: dense scores 0.100, and less than 0.200 is read as noise" in standing.words
    assert all("floor" in value.small for value in column(board, "accuracy").values())
    assert all(value.missing for title in ("rank", "Δ dense") for value in column(board, title).values())
    text = tables.markdown([(board, standings(board))], {})
    assert "cannot do this task" in text
    assert "Pareto front by" not in text


def test_the_first_question_and_the_drop_stand_beside_the_later_ones(cell_of):
    score = {"value": 0.5, "n": 4, "low": 0.1, "high": 0.9, "interval": "wilson"}
    scores = dict.fromkeys(("later", "first"), score) | {"drop": {**score, "higher_is_better": False}}
    told = {"quality__task": "multi_turn", "quality__primary": "later", "quality__scores": scores}
    (board,) = boards([cell_of("dense", 1024, "needle", **told)])
    shown = [field.title for field in tables.fields(board, standings(board)) if not field.detail]
    assert {"later", "first", "drop"} <= set(shown)


@pytest.mark.parametrize(("chance", "below"), [(0.0, False), (0.25, True), (None, False)])
def test_the_floor_depends_on_what_guessing_scores(answered, chance, below):
    _, standing = answered(chance, dense=[1] * 4 + [0] * 6, kivi4=[1] * 3 + [0] * 7)
    assert (standing.floor is not None) == below


def test_a_record_that_does_not_know_its_chance_has_no_floor(answered):
    assert answered(None, dense=[0] * 10, kivi4=[0] * 9 + [1])[1].floor is None


def test_differences_are_marked_by_what_the_samples_can_say(answered):
    many = [1] * 150 + [0] * 50
    board, standing = answered(
        dense=many,
        kivi8=many,  # the same answers, and enough of them
        kivi4=[1, 1] * 74 + [0, 0] + [1] * 3 + [0] * 47,  # two lost, three gained
        kivi2=[1] * 100 + [0] * 100,
    )
    shown = {method: value.text for method, value in column(board, "Δ dense").items()}
    assert shown == {"dense": tables.DASH, "kivi8": "0 =", "kivi4": "+0.005 ≈", "kivi2": f"{tables.MINUS}0.250"}
    assert standing.differences["kivi4"].low90 < -0.005
    assert "Shown to lie within 0.02 of dense" in standing.words
    assert standing.words.endswith("5% each): kivi8.")
    flat = tables.flat([(board, standings(board))]).sort("needle.accuracy.minus dense")
    assert dict(flat.select("method", "needle.accuracy.beside dense").iter_rows()) == {
        "dense": None,
        "kivi8": "equal",
        "kivi4": "not told apart",
        "kivi2": "differs",
    }


def test_eight_equal_answers_are_no_proof_of_losing_nothing(answered):
    board, standing = answered(dense=[1] * 7 + [0], kivi4=[1] * 7 + [0], kivi2=[0] * 8)
    assert column(board, "Δ dense")["kivi4"].text == "0 ≈"
    assert "Of none of them is it shown" in standing.words
    assert "at least 150 samples" in standing.words
