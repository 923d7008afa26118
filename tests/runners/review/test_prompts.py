"""What show-prompt prints is what a run gives to the model, token by token."""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods import Dense
from kvfrontier.runners import models, texts
from kvfrontier.runners.record import append, load_records
from kvfrontier.runners.review.prompts import texts as texts_of
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import make
from kvfrontier.runners.tasks.needle import Needle
from kvfrontier.runners.tasks.tokens import tokenizer_hash

CELL = ("model=tiny", "context=700", "tracker=none")
QUICK = ("meter.decode_tokens=2", "meter.repetitions=1", "meter.warmups=0")


class Listening(Session):
    """Keeps the ids that it is given."""

    heard: tuple[list[list[int]], ...] = ()

    def prefill(self, ids: torch.Tensor, **about) -> torch.Tensor:
        Listening.heard = (*self.heard, ids.tolist())
        return super().prefill(ids, **about)

    def decode(self, ids: torch.Tensor, **about) -> torch.Tensor:
        if ids.shape[1] > 1:  # not its own answer
            Listening.heard = (*self.heard, ids.tolist())
        return super().decode(ids, **about)


@pytest.mark.parametrize("compress_at", ["context", "prompt"])
def test_the_ids_are_those_that_a_run_gives(kvfrontier, compress_at):
    loaded = models.load({"kind": "tiny", "device": "cpu"})
    task = make({"name": "needle", "samples": 2, "compress_at": compress_at})
    Listening.heard = ()

    def opened() -> Session:
        return Listening(loaded.model, Dense())

    task.run(opened, opened, loaded, 700, 3)
    words = ("task=needle", "task.samples=2", f"task.compress_at={compress_at}", "seed=3")
    told = [kvfrontier("show-prompt", *CELL, *words, f"sample={i}", "--json").json for i in (0, 1)]
    given = [[piece["ids"] for piece in one["pieces"]] for one in told]
    if compress_at == "prompt":
        given = [[context + question] for context, question in given]
    assert [[ids] for one in given for ids in one] == list(Listening.heard)
    assert told[0]["tokens"] + told[0]["new_tokens"] <= 700
    assert all("".join(p["text"] for p in t["pieces"]).count(t["facts"]["targets"][0]) == 1 for t in told)


def test_the_text_shows_where_parts_meet_and_how_long_they_are(kvfrontier):
    told = kvfrontier("show-prompt", *CELL, "task=needle", "--json").json
    said = kvfrontier("show-prompt", *CELL, "task=needle").out
    context, question = told["pieces"]
    assert f"=== context: {context['tokens']} tokens ===\n{context['text']}\n=== question: " in said
    assert f"{context['tokens']} context + {question['tokens']} question = {told['tokens']} tokens; 12 may" in said
    assert len(context["ids"]) == context["tokens"]


def test_special_tokens_are_visible_and_parts_join_to_the_whole():
    tokenizer = models.tokenizer({"kind": "tiny"})
    word = tokenizer.encode("naïve", add_special_tokens=False)
    # The two bytes of one letter part in the middle.
    for pieces in ([[256], word, [257]], [word[:3], word[3:]]):
        shown = texts_of(tokenizer, pieces)
        assert len(shown) == len(pieces)
    assert texts_of(tokenizer, [[256], word, [257]]) == ["<bos>", "naïve", "<eos>"]


def test_perplexity_shows_the_passage_and_the_tokens_that_are_scored(kvfrontier, monkeypatch):
    content = "One paragraph of the made text.\n\n" * 400
    monkeypatch.setattr(texts, "load_text", lambda name: texts.Text(name, content, "public domain", "made", "0" * 64))
    words = ("task=perplexity", "task.texts=[made]", "task.scored=64", "task.block=32")
    told = kvfrontier("show-prompt", *CELL, *words, "--json").json
    assert [(piece["name"], piece["tokens"]) for piece in told["pieces"]] == [("context", 636), ("scored", 64)]
    assert "".join(piece["text"] for piece in told["pieces"]) in content
    assert kvfrontier("show-prompt", *CELL, *words, "sample=1").code == 2
    assert "asks for no answer" in kvfrontier("show-prompt", *CELL, *words, "--run").err


def test_what_came_back_is_the_record_s_and_a_run_s(kvfrontier, tmp_path):
    words = ("task=needle", "task.samples=2")
    run = ["run", *CELL, *QUICK, *words, "worker.isolate=false"]
    assert kvfrontier(*run, "method=dense,window", f"results={tmp_path}").code == 0
    wanted = {r.info.label: r.quality.samples[1]["generation"] for r in load_records(tmp_path)}
    assert len(wanted) == 2
    recorded = kvfrontier("show-prompt", *CELL, *words, "sample=1", "--records", str(tmp_path), "--json").json[
        "answers"
    ]
    assert {a["method"]: a["generation"] for a in recorded} == wanted
    named = ("sample=1", "method=window")
    (one,) = kvfrontier("show-prompt", *CELL, *words, *named, "--records", str(tmp_path), "--json").json["answers"]
    (now,) = kvfrontier("show-prompt", *CELL, *words, *named, "--run", "--json").json["answers"]
    assert one["generation"] == now["generation"] == wanted["window"]
    assert "record" in one["where"]
    assert "run now" in now["where"]


def test_another_seed_task_or_method_has_no_record(kvfrontier, record_of, tmp_path):
    task = Needle(samples=1)
    tokenizer = models.tokenizer({"kind": "tiny"})
    samples = f"n=1 seed=0 tokenizer={tokenizer_hash(tokenizer)} data={task.data()}"
    facts = task.prompt(tokenizer, 1024, 0, 0).facts
    words = ("model=tiny", "context=1024", "task=needle", "task.samples=1", "method=dense")
    record = record_of(task, [{**facts, "generation": "1"}], sample_set=samples)
    model = kvfrontier("show-prompt", *words[:-1], "--json").json["model"]
    append(tmp_path / "a.jsonl", record.model_copy(update={"cell": record.cell.model_copy(update={"model": model})}))
    assert kvfrontier("show-prompt", *words, "--records", str(tmp_path)).code == 0
    # Of two samples the first needle is at the beginning, and of one in the middle.
    for other in ("seed=1", "task.keys=2", "method=window", "context=900", "task.samples=2"):
        asked = [w for w in words if w.partition("=")[0] != other.partition("=")[0]]
        said = kvfrontier("show-prompt", *asked, other, "--records", str(tmp_path))
        assert said.code == 2, other
        assert "add --run" in said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sample=8",), "there are 8, counted from 0"),
        (("sample=x",), "must be one whole number"),
        (("task=needle,perplexity",), "one prompt has one task"),
        (("task=neddle",), "did you mean 'needle'"),
        (("context=40",), "too short"),
    ],
)
def test_what_cannot_be_shown_is_bad_usage(kvfrontier, words, why):
    said = kvfrontier("show-prompt", *CELL, "task=needle", *words)
    assert said.code == 2
    assert why in said.err


def test_a_conversation_shows_every_turn_with_the_answers_between(kvfrontier):
    told = kvfrontier("show-prompt", "model=tiny", "context=1100", "task=multi_turn", "task.turns=3", "--json").json
    names = ["context", "question 1", "answer 1", "question 2", "answer 2", "question 3"]
    assert [piece["name"] for piece in told["pieces"]] == names
    said = {piece["name"]: piece["text"] for piece in told["pieces"]}
    keys, targets = told["facts"]["keys"], told["facts"]["targets"]
    for turn in (1, 2, 3):
        assert keys[turn - 1] in said[f"question {turn}"]
    assert [said["answer 1"], said["answer 2"]] == [f" {target}." for target in targets[:2]]
    assert told["tokens"] + told["new_tokens"] <= 1100
