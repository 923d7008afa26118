"""The task that asks the harness, as far as that need not be installed: what guessing scores, and which method a prompt
gets."""

from __future__ import annotations

from typing import Any

import pytest

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.tasks.harness import LmEval, digest


def found(task: str, kind: str, metric: str, *choices: int, metrics: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the harness gives back of one task, of which no document was answered."""
    documents = [
        {
            "doc_id": i, "filter": "none", "metrics": [metric, *metrics], metric: 0.0, "arguments": [("a", "b")] * n,
            "filtered_resps": [], "target": "x", "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
        }
        for i, n in enumerate(choices)
    ]  # fmt: skip
    return {
        "samples": {task: documents},
        "results": {task: {f"{metric},none": 0.0}},
        "higher_is_better": {task: {metric: True}},
        "configs": {task: {"output_type": kind}},
    }


@pytest.mark.parametrize(
    ("harness", "chance"),
    [
        (found("choices", "multiple_choice", "acc", 4, 4), 1 / 4),
        (found("of_several_lengths", "multiple_choice", "acc_norm", 2, 4), 3 / 8),
        (found("asked_twice", "multiple_choice", "acc", 8, 8, metrics=("acc_mutual_info",)), 1 / 4),
        (found("words", "generate_until", "exact_match", 1, 1), 0.0),
        (found("last_word", "loglikelihood", "acc", 1), 0.0),
        (found("mass", "multiple_choice", "mc2", 4), None),
        ({**found("untold", "multiple_choice", "acc", 4), "configs": {}}, None),
    ],
)
def test_a_guess_takes_one_of_the_choices_and_no_free_answer(harness, chance):
    assert digest(harness, seed=0)[2] == chance


def described(*overrides: str) -> tuple[Any, Any]:
    compose.register()
    config = compose.Composer(["model=tiny", "task=lm_eval", "context=400", *overrides])([]).config
    return cells.describe(config), config


def test_a_budget_is_solved_for_each_prompt_and_not_for_the_context():
    cell, config = described("method=snapkv", "method.window=8", "budget=25%")
    at = cells.method_at(cell, config["model"])
    settings: list[Any] = [at(n) for n in (100, 400)]
    assert [method.selection.budget for method in settings] == [25, 100]
    with pytest.raises(UsageError, match="a prompt of 9 tokens"):
        at(9)


def test_the_task_is_given_the_method_of_each_prompt(monkeypatch):
    cell, config = described("method=snapkv", "method.window=8", "budget=25%")
    given: dict[str, Any] = {}

    def run(self: LmEval, *args: Any, **options: Any) -> Any:
        given.update(options)
        raise UsageError("no more is asked")

    monkeypatch.setattr(LmEval, "run", run)
    with pytest.raises(UsageError, match="no more"):
        cells.Bench(cell, config["model"]).quality(cell, None, lambda _: None)
    assert [given["method"](n).selection.budget for n in (100, 200)] == [25, 50]
