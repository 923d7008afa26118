"""A golden file for every version of every task: what decides its hash, some prompts, and what some answers score.

A change of any of these is a change of every score of the task. Raise the task's version, and add what the failing test
prints to golden.json; entries of earlier versions stay, as what their records were made by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners import texts
from kvfrontier.runners.tasks import make, names
from kvfrontier.runners.tasks.answer import AnswerTask
from kvfrontier.runners.tasks.task import Task

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
CONTEXT, SEED = 9000, 11
SQUAD = {
    "data": [
        {"paragraphs": [
            {"context": f"Paragraph {p} of {a}.", "qas": [{"question": f"Which, {a}?", "answers": [{"text": f"{p}"}]}]}
            for p in range(2)
        ]}
        for a in range(3)
    ]
}  # fmt: skip
HOTPOT = [
    {"question": f"Which {q}?", "answer": str(q), "context": [[f"title {q} {d}", [f"Sentence {d}."]] for d in range(3)]}
    for q in range(6)
]
FILES = {"ruler_qa_squad": SQUAD, "ruler_qa_hotpot": HOTPOT}
#: Benchmarks whose files conftest.py makes.
MADE = ("longbench", "longbench_v2", "infinitebench", "helmet_recall", "nolima")


@pytest.fixture(autouse=True)
def texts_with_rare_words(monkeypatch, texts_without_a_network):
    """Some sentences hold a word that stands nowhere else, for the cloze."""
    load = texts.load_text

    def with_rare_words(name: str) -> texts.Text:
        text = load(name)
        sentences = re.split(r"(?<=[.!?])\s+", text.content)
        rng = random.Random(2)
        for i in range(0, len(sentences), 20):
            sentences[i] = f"Nobody on earth knew that the {''.join(rng.choices('qrstuvwxyz', k=9))} was hidden."
        return dataclasses.replace(text, content=" ".join(sentences) + "\n")

    monkeypatch.setattr(texts, "load_text", cache(with_rare_words))


def made(name: str, folder: Path, benchmark_data: Path) -> Task:
    if name in MADE:
        return make({"name": name, "path": str(benchmark_data), "samples": 4})
    if name not in FILES:
        return make({"name": name})
    path = folder / "data.json"
    path.write_text(json.dumps(FILES[name]))
    return make({"name": name, "path": str(path)})


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def prompts(task: Task, tokenizer: Any) -> list[str] | None:
    """The first two; None where the model writes what it is given."""
    if type(task).prompt is Task.prompt:
        return None
    shown = [task.prompt(tokenizer, CONTEXT, SEED, i) for i in range(2)]
    return [digest([prompt.pieces, prompt.facts, prompt.new_tokens]) for prompt in shown]


def scores(task: Task, tokenizer: Any) -> dict[str, list[float | None]] | None:
    """Of all targets, of all but the first, of other letters, and of nothing: value and interval of each score."""
    if not isinstance(task, AnswerTask):
        return None
    results = []
    for i in range(4):
        targets = task.prompt(tokenizer, CONTEXT, SEED, i).facts["targets"]
        said = (targets, ["x", *targets[1:]], [t.upper() for t in targets], ["x"] * len(targets))[i]
        generation = said if task.said == "generations" else f" {', '.join(said)}."
        results.append(task.graded({"targets": targets, task.said: generation}))
    found = task.score(results, SEED)
    return {name: [s.value, s.low, s.high] for name, s in found.items()}


@pytest.mark.parametrize("name", names())
def test_a_task_is_what_its_version_says(name, bytes_tokenizer, tmp_path, benchmark_data):
    task = made(name, tmp_path, benchmark_data)
    here = {"hash": task.hash(), "prompts": prompts(task, bytes_tokenizer), "scores": scores(task, bytes_tokenizer)}
    known = GOLDEN.get(name, {}).get(str(task.version))
    assert known is not None, (
        f'golden.json has no version {task.version} of {name}: "{task.version}": {json.dumps(here)}'
    )
    told = f"raise the version of {name}, and add its new entry to golden.json: {json.dumps(here)}"
    assert known["hash"] == here["hash"], told
    assert known["prompts"] == here["prompts"], told
    assert (known["scores"] or {}).keys() == (here["scores"] or {}).keys(), told
    for score, values in (here["scores"] or {}).items():
        assert values == pytest.approx(known["scores"][score], abs=1e-9), told


def test_the_file_knows_no_task_and_no_version_that_there_never_was():
    latest = {name: make({"name": name}).version for name in names()}
    assert set(GOLDEN) == set(latest)
    for name, versions in GOLDEN.items():
        assert all(1 <= int(version) <= latest[name] for version in versions)


def test_where_a_file_lies_is_no_part_of_the_hash_and_what_is_in_it_is_one_of_the_samples(tmp_path):
    here, there = (
        made("ruler_qa_squad", folder, folder)
        for folder in (tmp_path, tmp_path / "other")
        if not folder.mkdir(exist_ok=True)
    )
    assert isinstance(here, AnswerTask)
    assert isinstance(there, AnswerTask)
    assert here.hash() == there.hash()
    assert here.data() == there.data()
