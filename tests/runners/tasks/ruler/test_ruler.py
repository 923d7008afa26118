"""RULER's generators against the definitions of the official code: counts, depths, distractors, answers, lengths.

What is checked is the text that a model reads, taken apart with other means than it was put together with.
"""

import dataclasses
import hashlib
import json
import math
import random
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest

from kvfrontier.methods import Dense
from kvfrontier.runners import texts
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import registry
from kvfrontier.runners.tasks.ruler.qa import HotpotQA, SquadQA
from kvfrontier.runners.tasks.ruler.task import RulerTask

#: task: keys, values a key, keys asked for (scripts/synthetic.yaml), and what keys and values look like.
# Some of the lists' words are two.
WORD, NUMBER = r"[^:]+?-[^:]+?", r"\d{7}"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
NIAH = {
    "niah_single_1": (1, 1, 1, WORD, NUMBER),
    "niah_single_2": (1, 1, 1, WORD, NUMBER),
    "niah_single_3": (1, 1, 1, WORD, UUID),
    "niah_multikey_1": (4, 1, 1, WORD, NUMBER),
    "niah_multikey_2": (None, 1, 1, WORD, NUMBER),
    "niah_multikey_3": (None, 1, 1, UUID, UUID),
    "niah_multivalue": (1, 4, 1, WORD, NUMBER),
    "niah_multiquery": (4, 1, 4, WORD, NUMBER),
}
OTHERS = ("ruler_vt", "ruler_cwe", "ruler_fwe", "cloze_qa")
RULER = (*NIAH, *OTHERS)


@pytest.fixture(autouse=True)
def texts_with_rare_words(monkeypatch, texts_without_a_network):
    """A cloze needs words that stand nowhere else."""
    load = texts.load_text

    def with_rare_words(name):
        text = load(name)
        sentences = re.split(r"(?<=[.!?])\s+", text.content)
        rng = random.Random(2)
        for i in range(0, len(sentences), 20):
            rare = "".join(rng.choices("qrstuvwxyz", k=9))
            sentences[i] = f"Nobody on earth ever knew that the {rare} was hidden there."
        return dataclasses.replace(text, content=" ".join(sentences) + "\n")

    monkeypatch.setattr(texts, "load_text", cache(with_rare_words))


def make(name, **parameters) -> Any:
    return registry.make({"name": name, **parameters})


def drawn(name, tokenizer, context=3000, samples=3, seed=0, **parameters):
    return make(name, samples=samples, **parameters).draw(tokenizer, context, seed)


def text(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_thirteen_tasks_are_there():
    ruler = {name for name, task in registry.tasks().items() if issubclass(task, RulerTask)}
    assert ruler == {*RULER, "ruler_qa_squad", "ruler_qa_hotpot"}
    assert len(ruler - {"cloze_qa"}) == 13


# Lengths.


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize("chat_template", [True, False])
def test_a_prompt_is_never_over_and_short_by_less_than_a_unit(name, tokenizer, chat_template):
    task = make(name, samples=2, chat_template=chat_template)
    # A unit: a sentence, a line of noise, a needle of two UUIDs, an entry three times, a word, a passage.
    longest = {"cloze_qa": 1500}.get(name, 410)
    for context in (3000, 9003):
        for sample in task.draw(tokenizer, context, seed=1):
            assert context - longest < len(sample.ids) + task.answer_tokens <= context


@pytest.mark.parametrize("name", RULER)
def test_a_context_that_is_too_short_is_refused(name, bytes_tokenizer):
    with pytest.raises(UsageError, match="too short"):
        drawn(name, bytes_tokenizer, context=200)


# Samples.


@pytest.mark.parametrize("name", RULER)
def test_a_sample_does_not_depend_on_those_before_it_and_moves_with_the_seed(name, bytes_tokenizer):
    few, many = (drawn(name, bytes_tokenizer, samples=n) for n in (1, 3))
    assert few[0] == many[0]
    assert len({tuple(sample.ids) for sample in many}) == 3
    assert drawn(name, bytes_tokenizer, samples=1, seed=1)[0].ids != few[0].ids


@pytest.mark.parametrize("name", RULER)
def test_answers_stand_in_the_context_and_not_in_the_question(name, tokenizer):
    for sample in drawn(name, tokenizer):
        context, question = text(tokenizer, sample.context), text(tokenizer, sample.question)
        for target in sample.targets:
            assert target in context
            assert target not in question


@pytest.mark.parametrize("name", list(NIAH))
def test_needles_are_as_many_and_of_the_kind_that_the_task_is_named_for(name, tokenizer):
    keys, values, queries, key, value = NIAH[name]
    kind = "uuids" if value == UUID else "numbers"
    for sample in drawn(name, tokenizer):
        context, question = text(tokenizer, sample.context), text(tokenizer, sample.question)
        needles = re.findall(rf"One of the special magic {kind} for ({key}) is: ({value})\.", context)
        assert len(needles) == context.count("One of the special magic")
        if keys is None:  # nothing but needles
            assert len(needles) > 15
            assert len({k for k, _ in needles}) == len(needles)
        else:
            assert len(needles) == keys * values
            assert len({k for k, _ in needles}) == keys
        asked = sample.facts["keys"]
        assert len(asked) == queries
        assert all(k in question for k in asked)
        assert set(sample.targets) == {v for k, v in needles if k in asked}
        assert len(sample.targets) == queries * values
        one = queries * values == 1
        assert (f"What {'is' if one else 'are all'} the special magic {kind[:-1] if one else kind} for") in question
        assert question.endswith(" mentioned in the provided text " + ("is" if one else "are"))


@pytest.mark.parametrize("name", ["niah_multikey_1", "niah_single_1", "ruler_vt"])
def test_the_places_in_the_record_are_where_the_facts_begin(name, tokenizer):
    begins = "VAR " if name == "ruler_vt" else "One of the special magic"
    for sample in drawn(name, tokenizer):
        for place in sample.facts["positions"]:
            assert text(tokenizer, sample.context[place : place + 60]).lstrip().startswith(begins)


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2"])
def test_depths_are_uniform(name, bytes_tokenizer):
    """Pearson's chi-square over four quarters of the filler: 16.27 is exceeded by chance once in a thousand times."""
    n = 400
    task = make(name, samples=n)
    depths = [sample.facts["depths"][0] for sample in task.draw(bytes_tokenizer, 6000, seed=0)]
    assert min(depths) < 0.05
    assert max(depths) > 0.95
    counts = Counter(min(3, int(4 * depth)) for depth in depths)
    assert sum((counts[q] - n / 4) ** 2 / (n / 4) for q in range(4)) < 16.27


def test_variables_are_handed_on_in_order(tokenizer):
    for sample in drawn("ruler_vt", tokenizer, chains=2, hops=3, context=4000):
        context, question = text(tokenizer, sample.context), text(tokenizer, sample.question)
        holds = {}
        for variable, value in re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})", context):
            holds[variable] = holds.get(value, value)  # the value itself, or what the variable before holds
        assert len(holds) == 8
        assert sorted(Counter(holds.values()).values()) == [4, 4]
        assert set(sample.targets) == {v for v, held in holds.items() if held == sample.facts["value"]}
        assert f"assigned the value {sample.facts['value']} in the text above" in question
        assert "4 variables are assigned" in question


@pytest.mark.parametrize(("context", "repeats", "others", "shown"), [(3000, 6, 1, 40), (12000, 30, 3, 190)])
def test_common_words_are_as_frequent_as_defined(tokenizer, context, repeats, others, shown):
    for sample in drawn("ruler_cwe", tokenizer, context=context, samples=2):
        example, listed = text(tokenizer, sample.context).split("Memorize the ones that appear most often.\n")[1:]
        entries = re.findall(r"(\d+)\. (\S+)", listed)
        assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
        counts = Counter(word for _, word in entries)
        assert {word for word, n in counts.items() if n == repeats} == set(sample.targets)
        assert len(sample.targets) == 10
        assert Counter(counts.values()) == {repeats: 10, others: len(counts) - 10}
        # The example: its list, and its ten words as the answer.
        assert len(re.findall(r"\d+\. \S+", example)) == shown + 10


def test_coded_words_follow_a_zeta_distribution(tokenizer):
    for sample in drawn("ruler_fwe", tokenizer, context=6000):
        coded = text(tokenizer, sample.context).split("frequently appeared coded words.")[1].split()
        counts = Counter(coded)
        assert counts.most_common(4)[0][0] == "..."
        assert tuple(word for word, _ in counts.most_common(4)[1:]) == sample.targets
        assert all(re.fullmatch("[a-z]{6}", word) for word in counts if word != "...")
        assert sample.facts["vocabulary"] == (6000 - 50) // 50
        # Some N gives all counts: word k appears floor(N / (k^2 pi^2/6)) times.
        ordered = sorted(counts.values(), reverse=True)
        lowest = max(count * k**2 for k, count in enumerate(ordered, 1)) * math.pi**2 / 6
        highest = min((count + 1) * k**2 for k, count in enumerate(ordered, 1)) * math.pi**2 / 6
        assert lowest < highest


def test_a_cloze_leaves_out_a_word_that_stands_nowhere_else(bytes_tokenizer):
    for sample in drawn("cloze_qa", bytes_tokenizer, context=6000):
        context, question = text(bytes_tokenizer, sample.context), text(bytes_tokenizer, sample.question)
        (word,) = sample.targets
        assert len(re.findall(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", context)) == 1
        (shown,) = re.findall(r'Which word is missing here: "(.*)"', question)
        assert shown.replace("____", word) in context
        gold = re.split(r"Document \d+:\n", context)[sample.facts["gold"][0]]
        assert word in gold


# Data in files.

SQUAD = {
    "data": [
        {
            "title": f"article {a}",
            "paragraphs": [
                {
                    "context": f"Paragraph {p} of article {a} says that the number is {10 * a + p}.",
                    "qas": [
                        {"question": f"Which number is in {a} {p}?", "is_impossible": False,
                         "answers": [{"text": f"{10 * a + p}"}, {"text": f"{10 * a + p}"}]},
                        {"question": "Who knows?", "is_impossible": True, "answers": []},
                    ],
                }
                for p in range(3)
            ],
        }
        for a in range(1, 5)
    ]
}  # fmt: skip
HOTPOT = [
    {
        "question": f"Which {q}?",
        "answer": f"answer {q}",
        "context": [[f"title {q} {d}", [f"Sentence of {q}.", f" And answer {q} of {d}."]] for d in range(3)],
    }
    for q in range(4)
]


@pytest.mark.parametrize(("name", "data"), [("ruler_qa_squad", SQUAD), ("ruler_qa_hotpot", HOTPOT)])
def test_documents_of_a_file_are_numbered_and_the_question_s_own_are_among_them(name, data, tokenizer, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    task = make(name, path=str(path), samples=4)
    for sample in task.draw(tokenizer, 1200, seed=0):
        context = text(tokenizer, sample.context)
        numbers = [int(n) for n in re.findall(r"Document (\d+):\n", context)]
        assert numbers == list(range(1, sample.facts["documents"] + 1))
        documents = re.split(r"\n*Document \d+:\n", context)[1:]
        for gold in sample.facts["gold"]:
            assert any(answer in documents[gold - 1] for answer in sample.targets)
        assert len(sample.targets) == len(set(sample.targets)) == 1
    assert len(sample.facts["gold"]) == (1 if name == "ruler_qa_squad" else 3)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert task.data() == f"data.json-{digest}"


def test_distractors_are_of_the_same_article_first(bytes_tokenizer, tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD))
    for sample in make("ruler_qa_squad", path=str(path), samples=12).draw(bytes_tokenizer, 900, seed=0):
        context, article = text(bytes_tokenizer, sample.context), sample.targets[0][0]
        shown = re.findall(r"of article (\d)", context)
        assert len(shown) > 1
        assert shown.count(article) == min(3, len(shown))


@pytest.mark.parametrize("task", [SquadQA, HotpotQA])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "task.path is not set"), ("", "not of the format"), ('{"data": []}', "format|no question")],
)
def test_data_that_is_missing_or_not_what_it_should_be_is_bad_usage(task, content, words, tmp_path, bytes_tokenizer):
    path = tmp_path / "data.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=words):
        task(path=None if content is None else str(path)).draw(bytes_tokenizer, 1000, 0)
    with pytest.raises(UsageError, match="No such file"):
        task(path=str(tmp_path / "nowhere.json")).draw(bytes_tokenizer, 1000, 0)


def test_more_samples_than_questions_are_bad_usage(bytes_tokenizer, tmp_path):
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(HOTPOT))
    with pytest.raises(UsageError, match="4 questions"):
        HotpotQA(path=str(path), samples=5).draw(bytes_tokenizer, 2000, 0)


# Scoring.


@pytest.mark.parametrize(
    ("name", "said", "targets", "recall"),
    [
        ("niah_multivalue", "They are 1234567, and 7654321.", ("1234567", "7654321", "1111111", "2222222"), 0.5),
        ("niah_single_1", " 1234567.", ("1234567",), 1),
        ("niah_single_1", " 123456", ("1234567",), 0),
        ("ruler_vt", "ABCDE fghij\x01KLMNO", ("ABCDE", "FGHIJ", "KLMNO", "PQRST"), 0.75),
        ("cloze_qa", "Paris", ("London", "paris"), 1),
        ("cloze_qa", "Rome", ("London", "paris"), 0),
    ],
)
def test_answers_are_graded_as_the_official_script_would(name, said, targets, recall):
    assert make(name).grade(said, targets) == {"recall": recall}


def test_scores_are_means_of_recalls_with_the_interval_that_fits():
    task = make("niah_multivalue")
    whole = task.score([{"recall": r} for r in (1.0, 0.0, 1.0, 1.0)], seed=0)["recall"]
    parts = task.score([{"recall": r} for r in (1.0, 0.25, 0.5, 0.25)], seed=0)["recall"]
    assert (whole.value, whole.n, whole.interval) == (0.75, 4, "wilson")
    assert (parts.value, parts.n, parts.interval) == (0.5, 4, "bootstrap")
    assert parts.low < 0.5 < parts.high


def test_a_task_runs_and_says_what_the_model_answered(tiny):
    task = make("niah_multivalue", samples=2)
    quality = task.run(lambda: Session(tiny.model, Dense()), lambda: Session(tiny.model, Dense()), tiny, 1500, 0)
    assert (quality.task, quality.primary, set(quality.scores)) == ("niah_multivalue", "recall", {"recall"})
    assert all(0 <= sample["recall"] <= 1 and isinstance(sample["generation"], str) for sample in quality.samples)
    assert quality.state.sealed_tokens < 1500
