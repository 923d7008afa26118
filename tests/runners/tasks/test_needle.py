import hashlib
import json

import pytest

from kvfrontier.methods import Dense, Sinks, Window
from kvfrontier.runners import tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import answer, haystack
from kvfrontier.runners.tasks.needle import Needle


def shortest(task, tokenizer):
    """The shortest context for a sample, in tokens; words differ in length, so for this sample."""
    try:
        task.sample(tokenizer, 1, 0, answer.rng(task, 0, 0))
    except UsageError as error:
        return int(str(error).split("alone take ")[1].split()[0])
    raise AssertionError("a context of one token held a needle")


# Length.


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("options", [{}, {"keys": 3}, {"keys": 2, "values": 2, "retrieve": "all"}])
def test_noise_fills_every_context_exactly(tokenizer, options, chat_template):
    task = Needle(samples=1, chat_template=chat_template, **options)
    least = shortest(task, tokenizer)
    for context in [*range(least, least + 40), least + 333, 3 * least]:
        (sample,) = task.draw(tokenizer, context, seed=0)
        assert len(sample.ids) + task.answer_tokens == context


@pytest.mark.parametrize("chat_template", [True, False])
def test_natural_text_is_never_over_and_short_by_less_than_the_next_sentence(tokenizer, chat_template, monkeypatch):
    sentences = []
    encode_inside = haystack.encode_inside
    monkeypatch.setattr(haystack, "encode_inside", lambda *a: sentences.append(encode_inside(*a)) or sentences[-1])
    task = Needle(samples=1, haystack="made", chat_template=chat_template)
    least = shortest(task, tokenizer)
    for context in [*range(least + 20, least + 320, 7), 4 * least]:
        sentences.clear()
        (sample,) = task.draw(tokenizer, context, seed=context)
        short = context - task.answer_tokens - len(sample.ids)
        assert 0 <= short < max(len(ids) for piece in sentences for ids in piece)


def test_a_context_without_room_is_an_error_that_says_how_much_is_needed(tokenizer):
    task = Needle(samples=1)
    least = shortest(task, tokenizer)
    with pytest.raises(UsageError, match=f"context {least - 1} is too short: .* take {least} tokens; raise context"):
        task.draw(tokenizer, least - 1, seed=0)
    assert task.draw(tokenizer, least, seed=0)


def test_a_text_that_ends_goes_on_from_its_beginning(bytes_tokenizer):
    units = haystack.fill(bytes_tokenizer, "made", 900_000, answer.rng(Needle(), 0, 0))
    assert 899_000 < sum(map(len, units)) <= 900_000


# What a sample holds.


@pytest.mark.parametrize("text", ["noise", "made"])
def test_each_needle_lies_in_the_context_and_no_answer_in_the_question(tokenizer, text):
    task = Needle(samples=4, keys=3, values=2, retrieve="all", haystack=text)
    for sample in task.draw(tokenizer, 3500, seed=1):
        context, question = tokenizer.decode(sample.context), tokenizer.decode(sample.question)
        assert len(sample.targets) == 6
        assert all(context.count(f"is: {target}.") == 1 for target in sample.targets)
        assert not any(target in question for target in sample.targets)
        assert all(key in question for key in sample.facts["keys"])


def test_one_key_is_asked_for_and_the_others_distract(bytes_tokenizer):
    (sample,) = Needle(samples=1, keys=4).draw(bytes_tokenizer, 2000, seed=0)
    assert bytes_tokenizer.decode(sample.context).count("One of the special magic numbers for ") == 4
    assert len(sample.targets) == len(sample.facts["keys"]) == 1


def test_depths_are_spread_evenly_from_end_to_end(tokenizer):
    task = Needle(samples=5)
    samples = task.draw(tokenizer, 3000, seed=0)
    assert [s.facts["depth"] for s in samples] == [0, 0.25, 0.5, 0.75, 1]
    head = samples[0].facts["positions"][0]
    for sample in samples:
        (place,) = sample.facts["positions"]
        needle = next(
            n
            for n in range(10, 200)
            if "is: " + sample.targets[0] + "." in tokenizer.decode(sample.context[place : place + n])
        )
        hay = len(sample.context) - head - needle
        # Sentences are not cut: nearest to the depth by half the longest of them.
        assert abs(place - head - sample.facts["depth"] * hay) <= 30
    assert [s.facts["depth"] for s in Needle(samples=2, depth=0.3).draw(tokenizer, 3000, seed=0)] == [0.3, 0.3]


def test_a_sample_does_not_depend_on_how_many_are_drawn(tokenizer):
    few, many = (Needle(samples=n, depth=0.5).draw(tokenizer, 2000, seed=3) for n in (2, 6))
    assert few == many[:2]
    assert len({s.targets for s in many}) == 6
    assert Needle(samples=2, depth=0.5).draw(tokenizer, 2000, seed=4) != few


#: Changes of these are changes of every score: raise Needle.version and write the new ones here.
GOLDEN = {
    "version": 1,
    "hash": "032fa63265fe070f",
    "noise": "ac0dea00d3f84976",
    "several in a text": "826e183cb0d0e028",
}


def test_prompts_and_hash_are_those_of_this_version(bytes_tokenizer):
    def digest(**options):
        samples = Needle(samples=2, **options).draw(bytes_tokenizer, 1500, seed=0)
        content = json.dumps([[s.context, s.question, s.targets] for s in samples])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    assert {
        "version": Needle.version,
        "hash": tasks.make({"name": "needle"}).hash(),
        "noise": digest(),
        "several in a text": digest(keys=2, values=2, retrieve="all", haystack="made"),
    } == GOLDEN


# Scoring.


@pytest.mark.parametrize(
    ("text", "targets", "correct", "recall"),
    [
        (" 1234567.", ("1234567",), True, 1),
        (": 1234567", ("1234567",), True, 1),
        (" 1234567. The sky is blue.", ("1234567",), False, 0),
        (" 12345678", ("1234567",), False, 0),
        (" 1234567, 7654321", ("1234567",), False, 1),
        ("", ("1234567",), False, 0),
        (" 1, 2 and 3.", ("1", "2", "3"), True, 1),
        (" 3, 1, and 2", ("1", "2", "3"), True, 1),
        (":\n\n1. 1111111\n2. 2222222\n3", ("1111111", "2222222"), True, 1),
        ("- 1111111\n- 3333333", ("1111111", "2222222"), False, 0.5),
    ],
)
def test_answers_are_graded_as_worked_out_by_hand(text, targets, correct, recall):
    assert answer.grade(text, targets) == {"correct": correct, "recall": recall}


# Running.


def run(task, loaded, open_session, context=1200, **options):
    return task.run(open_session, lambda: Session(loaded.model, Dense()), loaded, context, 0, **options)


def test_token_ids_are_the_same_wherever_the_method_compresses(tiny, stock):
    sessions = {}
    for place in ("context", "prompt"):
        sessions[place] = stock(tiny.model)
        run(Needle(samples=2, compress_at=place), tiny, lambda place=place: sessions[place])
    drawn = Needle(samples=2).draw(tiny.tokenizer, 1200, seed=0)
    assert sessions["context"].calls == [c for s in drawn for c in (("prefill", s.context), ("decode", s.question))]
    assert sessions["prompt"].calls == [("prefill", s.ids) for s in drawn]


def test_both_places_of_compression_give_dense_attention_the_same_answers(tiny):
    at = {
        place: run(Needle(samples=2, compress_at=place), tiny, lambda: Session(tiny.model, Dense()))
        for place in ("context", "prompt")
    }
    assert at["context"].samples == at["prompt"].samples
    assert at["context"].task_hash != at["prompt"].task_hash
    assert at["context"].sample_set == at["prompt"].sample_set


@pytest.mark.parametrize("method", [Dense(), Sinks(window=60, sinks=4)])
def test_no_sample_sees_the_one_before_it(tiny, method):
    task = Needle(samples=3)
    together = run(task, tiny, lambda: Session(tiny.model, method), chunk=100)
    for sample, result in zip(task.draw(tiny.tokenizer, 1200, seed=0), together.samples, strict=True):
        with Session(tiny.model, method) as session:
            answer.read(session, sample, "context", 100)
            session.decode(answer.row(sample.question, session))
            (alone,) = session.generate(task.answer_tokens)
        assert tiny.tokenizer.decode(alone).startswith(result["generation"])


def test_the_record_says_what_the_state_held_where_the_method_compresses(tiny):
    drawn = Needle(samples=2).draw(tiny.tokenizer, 1200, seed=0)
    prompts: dict[answer.CompressAt, list[list[int]]]
    prompts = {"context": [s.context for s in drawn], "prompt": [s.ids for s in drawn]}
    for place, read in prompts.items():
        task = Needle(samples=2, compress_at=place)
        state = run(task, tiny, lambda: Session(tiny.model, Window(window=100))).state
        assert state is not None
        mean = sum(map(len, read)) / 2
        assert state.sealed_tokens == mean
        assert state.share16 == pytest.approx(100 / mean)
        assert state.sealed_payload == state.final_payload == 100 * bytes_per_token(tiny)


def bytes_per_token(loaded):
    config = loaded.model.config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * loaded.model.dtype.itemsize


def test_a_prompt_is_the_context_less_the_answer(tiny):
    for task in (Needle(), Needle(keys=3, values=2, retrieve="all")):
        sample = task.draw(tiny.tokenizer, 1200, seed=0)[0]
        assert len(sample.ids) == task.prompt_tokens(1200) == 1200 - task.answer_tokens


def test_the_record_says_what_was_asked_and_answered(tiny, stock):
    said = []
    quality = run(Needle(samples=2), tiny, lambda: stock(tiny.model), progress=said.append)
    assert (quality.status, quality.task, quality.task_version, quality.primary) == ("ok", "needle", 1, "accuracy")
    assert quality.task_hash == Needle().hash()
    assert quality.sample_set.startswith("n=2 seed=0 tokenizer=")
    assert quality.sample_set.endswith("data=noise-1")
    assert said == ["needle 1/2", "needle 2/2"]
    score = quality.scores["accuracy"]
    assert (score.value, score.n, score.interval, score.low) == (0, 2, "wilson", 0)
    assert score.high == pytest.approx(0.6576, abs=1e-4)
    for sample in quality.samples:
        assert sample["prompt_tokens"] + Needle().answer_tokens == 1200
        assert {"depth", "targets", "generation", "correct"} <= set(sample)
    assert json.loads(quality.model_dump_json())["samples"][0]["generation"] == quality.samples[0]["generation"]


def test_a_context_beyond_the_model_s_positions_is_refused(tiny):
    with pytest.raises(UsageError, match="context 8193 is longer than the 8192 positions of tiny; lower context"):
        run(Needle(), tiny, lambda: Session(tiny.model, Dense()), context=8193)


# The embedded model.


@pytest.mark.slow
def test_the_embedded_model_finds_needles_at_both_ends(smollm2):
    quality = run(Needle(samples=2), smollm2, lambda: Session(smollm2.model, Dense()), context=512)
    assert quality.scores["accuracy"].value == 1
    assert [s["prompt_tokens"] for s in quality.samples] == [500, 500]


@pytest.mark.slow
def test_a_window_finds_only_the_needle_that_it_holds(smollm2, stock):
    quality = run(Needle(samples=2), smollm2, lambda: stock(smollm2.model, keep=200), context=512)
    assert [s["correct"] for s in quality.samples] == [False, True]
