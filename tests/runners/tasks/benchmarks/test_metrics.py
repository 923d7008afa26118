"""The official metrics on examples that are worked by hand from their definitions."""

from __future__ import annotations

from typing import Any

import pytest

from kvfrontier.runners.tasks.benchmarks.metrics import METRICS, best

CLASSES = {"classes": ["Date", "Other date", "Place", "Place name"]}


@pytest.mark.parametrize(
    ("metric", "answer", "target", "expected"),
    [
        # 2 of 3 words are right, of 2: P = 2/3, R = 1.
        ("qa_f1", "The big red Apples.", "red apples", 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("qa_f1", "a an the", "red", 0),
        ("qa_f1", "red red", "red", 2 * 0.5 * 1 / 1.5),
        ("character_f1_zh", "苹果。", "红苹果", 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("count", "There are 5, not 7.", 5, 1 / 2),
        ("count", "none", "5", 0),
        ("retrieval", "Paragraph 12", "Paragraph 12", 1),
        ("retrieval", "12 or 13 or 12", "Paragraph 12", 2 / 3),
        ("retrieval_zh", "段落3", "段落3", 1),
        # The first line without a mark of a comment or of a fence; 2 * 6 / (8 + 7) of the letters match.
        ("code_similarity", "```python\n# no\nx = y+10\nz", "x = y+1", round(100 * 2 * 7 / 15) / 100),
        ("code_similarity", "# nothing else", "x", 0),
        ("choice_letter", "**The correct answer is (B)**, since", "B", 1),
        ("choice_letter", "The correct answer is B", "B", 1),
        ("choice_letter", "B", "B", 0),
        ("choice_letter", "The correct answer is (A). The correct answer is (B)", "B", 0),
        ("first_number", "the key is 123, not 45", "123", 1),
        ("first_number", "no key", "123", 0),
        ("last_number", "The return value is: `-12`.", -12, 1),
        ("last_number", "12 apples", 12, 0),
        ("number_found", "It is 7.", 7, 1),
        ("number_found", "It is 7.5", 7.5, 1),
        ("number_found", "It is 7.5", 7, 0),
        ("numbers_in_order", "[1, 3, 4]", [1, 3, 5, 6], 2 / 4),
        ("numbers_in_order", "", [1], 0),
        ("word_among", "the value: 'ab-cd'.", "ab-cd", 1),
        ("word_among", "the value: ab-cde", "ab-cd", 0),
        ("name_among", "It is Jerry, surely", "JERRY", 1),
        ("book_choice", "C. blue", ["blue", "C"], 1),
        ("book_choice", "blue", ["blue", "C"], 1),
        ("book_choice", "I say the answer is: C", ["blue", "C"], 1),
        ("book_choice", "it must be D", ["blue", "C"], 0),
        ("book_choice", "it must be C", ["blue", "C"], 1),
        ("book_choice", "", ["blue", "C"], 0),
        ("code_choice", "B. run", ["run", "B"], 1),
        ("code_choice", "The correct option is: run", ["run", "B"], 1),
        ("code_choice", "The correct option is: walk, or B", ["run", "B"], 0),
        ("code_choice", "run", ["run", "B"], 0),
        ("named", "it is AB12", "ab12", 1),
        ("substring_match", "The value, of a: 1-2!", "value of 12", 1),
        ("contained", "Yuki has.", "Yuki", 1),
        ("contained", "yuki has.", "Yuki", 0),
    ],
)
def test_a_metric_is_what_its_definition_says(metric: str, answer: str, target: Any, expected: float):
    assert METRICS[metric](answer, target, {}) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("Place", "Place", 1),
        ("Date or Place", "Date", 1 / 2),
        # `Place` is part of the right class's name, and does not count against it.
        ("Place name", "Place name", 1),
        ("nothing", "Date", 0),
    ],
)
def test_a_class_shares_its_score_with_others_that_are_named(answer: str, target: str, expected: float):
    assert METRICS["classification"](answer, target, CLASSES) == expected


def test_of_several_right_answers_the_nearest_counts():
    assert best("qa_f1", "red apples", ["green pears", "red apples"], {}) == 1


@pytest.mark.slow
def test_summaries_are_scored_by_the_packages_of_the_official_code():
    pytest.importorskip("rouge", reason="pip install 'kvfrontier[benchmarks]'")
    pytest.importorskip("rouge_score", reason="pip install 'kvfrontier[benchmarks]'")
    # The longest common subsequence of "a b c d" and "a c d e" has 3 words: P = R = F = 3/4.
    assert METRICS["rouge_l"]("a b c d", "a c d e", {}) == pytest.approx(0.75, abs=1e-6)
    assert METRICS["rouge_lsum"]("alpha beta gamma delta", "alpha gamma delta epsilon", {}) == pytest.approx(0.75)
    assert METRICS["rouge_l"]("", "a", {}) == METRICS["rouge_l"]("...", "a", {}) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_chinese_words_are_parted_by_jieba():
    pytest.importorskip("jieba", reason="pip install 'kvfrontier[benchmarks]'")
    # 我 / 来到 / 北京 against 北京: P = 1/3, R = 1.
    assert METRICS["qa_f1_zh"]("我来到北京", "北京", {}) == pytest.approx(0.5)
