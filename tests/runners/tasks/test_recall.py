import json
import re

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.tasks.recall import KeyValueJson, UuidList

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def read(tokenizer, sample):
    return tokenizer.decode(sample.context), tokenizer.decode(sample.question)


def test_the_json_parses_and_holds_the_answer_where_the_depth_says(tokenizer):
    drawn = KeyValueJson(samples=3, chat_template=False).draw(tokenizer, 3000, seed=0)
    for sample, depth in zip(drawn, (0, 0.5, 1), strict=True):
        context, question = read(tokenizer, sample)
        pairs = json.loads(context[context.index("{") :])
        key = re.findall(rf'Key: "({UUID})"\nCorresponding value:', question)[0]
        assert sample.targets == (pairs[key],)
        assert len(pairs) == sample.facts["lines"]
        assert list(pairs).index(key) == round(depth * (len(pairs) - 1)) == sample.facts["line"] - 1
        assert all(re.fullmatch(UUID, text) for text in (*pairs, *pairs.values()))


def test_the_list_holds_the_neighbours_that_are_asked_for(tokenizer):
    drawn = UuidList(samples=3, items=4, chat_template=False).draw(tokenizer, 3000, seed=0)
    for sample, depth in zip(drawn, (0, 0.5, 1), strict=True):
        context, question = read(tokenizer, sample)
        listed = re.findall(rf"\n(\d+)\. ({UUID})", context)
        assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
        first, last = map(int, re.findall(r"Copy the identifiers (\d+) to (\d+) of", question)[0])
        assert last - first == 3
        assert first == round(depth * (len(listed) - 4)) + 1
        assert sample.targets == tuple(uuid for number, uuid in listed if first <= int(number) <= last)


@pytest.mark.parametrize("kind", [KeyValueJson, UuidList])
@pytest.mark.parametrize("chat_template", [True, False])
def test_a_prompt_is_never_over_and_short_by_less_than_a_line(kind, tokenizer, chat_template):
    task = kind(samples=3, chat_template=chat_template)
    for context in (1500, 2222):
        for sample in task.draw(tokenizer, context, seed=3):
            # A line and the difference between two questions, in bytes.
            assert context - 110 < len(sample.ids) + task.answer_tokens <= context


@pytest.mark.parametrize("kind", [KeyValueJson, UuidList])
def test_what_cannot_be_asked_is_refused(kind, bytes_tokenizer):
    with pytest.raises(UsageError, match="too short"):
        kind().draw(bytes_tokenizer, 300, 0)
    with pytest.raises(ValueError, match="depth"):
        kind(depth=1.5)
    with pytest.raises(ValueError, match="depth"):
        kind(depth="odd")


def test_a_copy_is_graded_by_the_identifiers_that_are_right():
    assert KeyValueJson().grade(' "abc"', ("abc",)) == {"correct": True, "recall": 1}
    assert KeyValueJson().grade('"ABC"\n}', ("abc",)) == {"correct": False, "recall": 0}
    assert UuidList().grade("\n1. aa\n2. xx\n3. cc", ("aa", "bb", "cc")) == {"correct": False, "recall": 2 / 3}
    assert UuidList().grade("aa, bb and cc.", ("aa", "bb", "cc")) == {"correct": True, "recall": 1}
