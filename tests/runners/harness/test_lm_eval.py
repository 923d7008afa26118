"""lm-evaluation-harness both ways, on task files and data that are made on the spot, against its own `hf` model."""

from __future__ import annotations

import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from kvfrontier.methods import Dense, SnapKV, Window
from kvfrontier.runners import models, tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is missing: pip install 'kvfrontier[lm_eval]'")
# Importing it takes seconds, and it warns of other packages' changes to come.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CHOICE = """
task: made_choice
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1}
"""
ANSWER = """
task: made_answer
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: [" ", "the"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""
ROLLING = """
task: made_rolling
dataset_path: json
dataset_kwargs: {data_files: DATA}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: byte_perplexity}]
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    rows = [
        {
            "question": f"{'Some words that came before. ' * (3 + i)}Which letter is number {i}?",
            "choices": [" a long one", " b", f" c{i}"],
            "answer": i % 3,
            "word": "x",
        }
        for i in range(6)
    ]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    for name, text in (("choice", CHOICE), ("answer", ANSWER), ("rolling", ROLLING)):
        (folder / "tasks" / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return folder / "tasks"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return models.load({"kind": "tiny", "device": "cpu", "max_context": 512})


def evaluated(model: Any, folder: Path, **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    found = simple_evaluate(
        model,
        tasks=["made_choice", "made_answer", "made_rolling"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    assert found is not None
    return found


def answers(found: dict[str, Any]) -> dict[str, list[Any]]:
    return {task: [d["filtered_resps"] for d in documents] for task, documents in found["samples"].items()}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_under_dense_attention_the_numbers_are_those_of_the_harness_s_own_model(tiny, folder, batch_size):
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    from kvfrontier.runners.harness.model import KVFrontierLM

    options: dict[str, Any] = {"max_length": 300, "batch_size": batch_size}
    own = evaluated(HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, **options), folder)
    ours = evaluated(KVFrontierLM(tiny, lambda _: Dense(), chunk=64, **options), folder)
    for task in ("made_choice", "made_answer", "made_rolling"):
        for metric, value in own["results"][task].items():
            if isinstance(value, float):
                assert ours["results"][task][metric] == pytest.approx(value, rel=1e-5), (task, metric)
    own_said, our_said = answers(own), answers(ours)
    assert our_said["made_answer"] == own_said["made_answer"]
    for theirs, mine in zip(own_said["made_choice"], our_said["made_choice"], strict=True):
        assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
        assert [float(ll) for ll, _ in mine] == pytest.approx([float(ll) for ll, _ in theirs], abs=1e-3)
    # Some prompts are longer than 300 tokens less the answer: their beginnings were cut alike.
    assert max(len(d["doc"]["question"]) for d in own["samples"]["made_choice"]) > 250


def test_a_method_compresses_the_prompt_and_scores_what_follows_as_a_session_does(tiny, folder):
    from kvfrontier.runners.harness.model import KVFrontierLM

    method = SnapKV(budget=40, window=8)
    found = evaluated(KVFrontierLM(tiny, lambda _: method, max_length=500), folder)
    for document in found["samples"]["made_choice"]:
        context, continuation = document["arguments"][0]
        prompt = tiny.tokenizer.encode(context)
        whole = tiny.tokenizer.encode(context + continuation)
        with Session(tiny.model, method) as session, torch.no_grad():
            session.prefill(torch.tensor([prompt]))
            expected = session.score(torch.tensor([whole[len(prompt) :]])).sum()
        assert float(document["filtered_resps"][0][0]) == pytest.approx(float(expected), abs=1e-3)


def test_model_args_are_the_keys_of_run_and_a_budget_is_a_share_of_each_prompt():
    from kvfrontier.runners.harness.model import KVFrontierLM

    made = KVFrontierLM.create_from_arg_string(
        "model=tiny,method=snapkv,method.window=8,budget=25%,max_length=400,seed=3", {"device": "cpu", "batch_size": 2}
    )
    assert made.max_length == 400
    assert made.batch_size == 2
    settings: list[Any] = [made._method(n) for n in (100, 400)]
    assert [method.selection.budget for method in settings] == [25, 100]
    with pytest.raises(UsageError, match="did you mean 'snapkv'"):
        KVFrontierLM.create_from_arg_obj({"model": "tiny", "method": "snapkw"})
    with pytest.raises(UsageError, match="a prompt of 9 tokens"):
        made._method(9)


def test_a_task_of_the_harness_makes_a_quality_with_intervals_and_samples_in_pairs(tiny, folder):
    task = tasks.make({"name": "lm_eval", "names": ["made_choice", "made_answer"], "include_path": str(folder)})

    def run(method: Any) -> Any:
        return task.run(lambda: Session(tiny.model, method), lambda: Session(tiny.model, Dense()), tiny, 500, 0)

    dense, window = run(Dense()), run(Window(window=16))
    assert dense.sample_set == window.sample_set
    assert dense.scores["score"].n == 12
    accuracy = dense.scores["made_choice.acc"]
    own = [s["score"] for s in dense.samples if s["task"] == "made_choice"]
    assert accuracy.value == pytest.approx(sum(own) / 6)
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert window.state.share16 < dense.state.share16 == 1
    # Of three choices a guess takes one; a free answer it does not find.
    assert dense.chance == pytest.approx((1 / 3 + 0) / 2)
    assert dense.samples != window.samples


def test_each_prompt_gets_the_method_of_its_own_length(tiny, folder):
    task: Any = tasks.make({"name": "lm_eval", "names": ["made_answer"], "include_path": str(folder)})
    asked: list[int] = []

    def method(prompt: int) -> Any:
        asked.append(prompt)
        return SnapKV(budget=prompt // 4, window=8)

    open_dense = lambda: Session(tiny.model, Dense())  # noqa: E731
    found = task.run(open_dense, open_dense, tiny, 500, 0, method=method)
    assert len(set(asked)) > 1
    assert found.state.share16 == pytest.approx(0.25, abs=0.01)


def test_the_command_knows_our_model_and_releases_with_entry_points_will(folder, capsys):
    from lm_eval.api.registry import get_model  # pyright: ignore[reportMissingImports]

    from kvfrontier.runners.harness import command
    from kvfrontier.runners.harness.model import KVFrontierLM

    (advertised,) = entry_points(group="lm_eval.models", name="kvfrontier")
    assert advertised.load() is KVFrontierLM
    args = ["--model_args", "model=tiny,method=window,method.window=64", "--tasks", "made_answer"]
    code = command.run(["run", "--model", "kvfrontier", *args, "--include_path", str(folder), "--limit", "2"])
    assert code == 0
    assert get_model("kvfrontier") is KVFrontierLM
    assert "exact_match" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"names": []}, "task.names is empty"), ({"names": ["no_such_task"]}, "no task 'no_such_task'")],
)
def test_what_the_harness_cannot_ask_is_said(tiny, settings, message):
    task = tasks.make({"name": "lm_eval", **settings})
    open_dense = lambda: Session(tiny.model, Dense())  # noqa: E731
    with pytest.raises(UsageError, match=message):
        task.run(open_dense, open_dense, tiny, 400, 0)
