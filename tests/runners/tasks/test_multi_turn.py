from typing import Any

import pytest
import torch

from kvfrontier.methods import Dense, SnapKV
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.answer import CompressAt
from kvfrontier.runners.tasks.multi_turn import MultiTurn
from kvfrontier.runners.tasks.tokens import chat_turn

TASK = MultiTurn(samples=2, turns=3)


def draw(task, tokenizer, context, seed) -> Any:
    return task.draw(tokenizer, context, seed)


def whole(sample):
    """All that a conversation feeds, the last answer left out."""
    ids = [*sample.context, *sample.question]
    for answer, question in zip(sample.answers, sample.later, strict=False):
        ids += [*answer, *question]
    return ids


def run(task, loaded, method, context=1400):
    return task.run(lambda: Session(loaded.model, method), lambda: Session(loaded.model, Dense()), loaded, context, 0)


def test_a_turn_is_what_the_template_puts_between_two_answers(tokenizer):
    conversation = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in conversation], tokenize=False
    )
    assert f"two{chat_turn(tokenizer, 'three')}four" in rendered


@pytest.mark.parametrize("chat_template", [True, False])
def test_a_conversation_fills_the_context_and_asks_for_another_number_each_turn(tokenizer, chat_template):
    task = MultiTurn(samples=2, turns=3, chat_template=chat_template)
    for sample in draw(task, tokenizer, 2000, seed=0):
        assert len(whole(sample)) + task.answer_tokens == 2000
        context = tokenizer.decode(sample.context)
        questions = [tokenizer.decode(ids) for ids in (sample.question, *sample.later)]
        for key, number, question in zip(sample.facts["keys"], sample.targets, questions, strict=True):
            assert f"One of the special magic numbers for {key} is: {number}." in context
            assert f"What is the special magic number for {key} mentioned" in question
        assert [tokenizer.decode(ids).strip() for ids in sample.answers] == [f"{number}." for number in sample.targets]


def test_a_budget_s_prompt_leaves_the_later_turns_out(tokenizer):
    prompt = TASK.prompt_tokens(2000, lambda: tokenizer)
    # Keys are words of several lengths: no sample's prompt is shorter, and none much longer.
    for sample in draw(TASK, tokenizer, 2000, seed=0):
        assert prompt <= len(sample.ids) <= prompt + 24
    assert TASK.prompt_tokens(2000) == 2000 - TASK.answer_tokens > prompt + 24


def test_every_turn_is_answered_after_the_true_conversation_before_it(tiny):
    """Dense attention generates what a plain model does that reads the conversation so far in one call."""
    quality = run(TASK, tiny, Dense())
    for sample, result in zip(draw(TASK, tiny.tokenizer, 1400, seed=0), quality.samples, strict=True):
        ids = [*sample.context, *sample.question]
        for turn, said in enumerate(result["generations"]):
            if turn:
                ids += [*sample.answers[turn - 1], *sample.later[turn - 1]]
            with torch.no_grad():
                generated: list[int] = []
                for _ in range(TASK.answer_tokens):
                    logits = tiny.model(torch.tensor([ids + generated])).logits
                    generated.append(int(logits[0, -1].argmax()))
            assert tiny.tokenizer.decode(generated, skip_special_tokens=True).startswith(said)


def test_the_drop_is_of_the_first_turn_over_the_later_ones(tiny):
    results = [{"first": 1.0, "later": 0.5, "drop": 0.5}, {"first": 1.0, "later": 0.0, "drop": 1.0}]
    scores = TASK.score(results, seed=0)
    assert (scores["first"].value, scores["later"].value, scores["drop"].value) == (1, 0.25, 0.75)
    assert not scores["drop"].higher_is_better
    assert [scores[name].interval for name in ("first", "later", "drop")] == ["wilson", "wilson", "newcombe"]
    quality = run(TASK, tiny, SnapKV(budget=64, window=8))
    for sample in quality.samples:
        assert sample["drop"] == sample["first"] - sample["later"]
        assert len(sample["generations"]) == len(sample["correct"]) == 3


def test_few_conversations_that_are_all_alike_leave_room_for_doubt():
    scores = TASK.score([{"first": 1.0, "later": 1.0, "drop": 0.0}] * 3, seed=0)
    assert (scores["later"].low, scores["later"].high) == (pytest.approx(0.4385, abs=1e-4), 1.0)
    assert (scores["drop"].low, scores["drop"].high) == pytest.approx((-0.5615, 0.5615), abs=1e-4)


def test_a_query_aware_method_reads_the_first_question_only(tiny):
    at: dict[str, str] = {}
    places: tuple[CompressAt, ...] = ("context", "prompt")
    for place in places:
        task = MultiTurn(samples=1, turns=2, compress_at=place)
        state = run(task, tiny, SnapKV(budget=64, window=8)).state
        assert state is not None
        sample = draw(task, tiny.tokenizer, 1400, seed=0)[0]
        sealed = len(sample.context) + (len(sample.question) if place == "prompt" else 0)
        assert state.sealed_tokens == sealed
        at[place] = task.hash()
    assert at["context"] != at["prompt"]


def test_a_single_turn_and_a_short_context_are_refused(bytes_tokenizer):
    with pytest.raises(ValueError, match="turns=1"):
        MultiTurn(turns=1)
    with pytest.raises(UsageError, match="too short"):
        draw(TASK, bytes_tokenizer, 300, 0)
