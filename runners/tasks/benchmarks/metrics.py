"""The official metrics of published benchmarks, from 0 to 1, each on one answer and one right one; of several right
ones the best counts (`best`).

LongBench's after its metrics.py, LongBench v2's after its pred.py, InfiniteBench's after its src/compute_scores.py,
HELMET's after its utils.py. Summaries and Chinese need packages of the extra `benchmarks`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import import_module
from itertools import takewhile
from typing import Any

from kvfrontier.runners.errors import UsageError

#: answer, target, what else is known of the sample -> score
Metric = Callable[[str, Any, Mapping[str, Any]], float]

_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣"  # noqa: RUF001
    "､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."  # noqa: RUF001
)


def best(metric: str, answer: str, targets: Sequence[Any], facts: Mapping[str, Any]) -> float:
    """The score of an answer against the right one that it is nearest to."""
    return max(float(METRICS[metric](answer, target, facts)) for target in targets)


# Words in common.


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and double spaces (SQuAD's)."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def normalized_chinese(text: str) -> str:
    """Lower case, without punctuation and white space."""
    dropped = {*string.punctuation, *_CHINESE_PUNCTUATION}
    return "".join("".join(c for c in text.lower() if c not in dropped).split())


def f1(answer: Sequence[str], target: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as both have it."""
    common = sum((Counter(answer) & Counter(target)).values())
    return 2 * common / (len(answer) + len(target)) if common else 0.0


def qa_f1(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """F1 of normalized words."""
    return f1(normalized(answer).split(), normalized(target).split())


def qa_f1_zh(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """F1 of Chinese words as jieba parts them."""
    words = [[normalized_chinese(w) for w in _package("jieba").cut(text, cut_all=False)] for text in (answer, target)]
    return f1(*([w for w in part if w] for part in words))


def character_f1_zh(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """F1 of characters."""
    return f1(list(normalized_chinese(answer)), list(normalized_chinese(target)))


# Summaries.


def rouge_l(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """F of ROUGE-L, as the package `rouge` has it; 0 where the answer has no words."""
    if not answer.strip(" .") or not target.strip(" ."):
        return 0.0
    return _package("rouge").Rouge().get_scores([answer], [target], avg=True)["rouge-l"]["f"]


def rouge_l_zh(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """The same of Chinese words as jieba parts them."""
    cut = _package("jieba").cut
    return rouge_l(" ".join(cut(answer, cut_all=False)), " ".join(cut(target, cut_all=False)), facts)


def rouge_lsum(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """F of ROUGE-Lsum, as the package `rouge_score` has it."""
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"])
    return scorer.score(target, answer)["rougeLsum"].fmeasure


# Classes, numbers, letters.


def classification(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """One over the classes that the answer names, where the right one is among them. Others that are a part of its name
    do not count."""
    named = [name for name in facts["classes"] if name in answer]
    # One is taken out while the list is walked, so that the one after it is not looked at: as in the official code.
    for name in named:
        if name in target and name != target:
            named.remove(name)
    return 1 / len(named) if target in named else 0.0


def _share_of_numbers(answer: str, target: str) -> float:
    numbers = re.findall(r"\d+", answer)
    return numbers.count(target) / len(numbers) if numbers else 0.0


def count(answer: str, target: Any, facts: Mapping[str, Any]) -> float:
    """The share of the answer's numbers that are the right one."""
    return _share_of_numbers(answer, str(target))


def retrieval(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """The same for the number of `Paragraph 12`."""
    return _share_of_numbers(answer, re.findall(r"Paragraph (\d+)", target)[0])


def retrieval_zh(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """The same for the number of 段落12."""
    return _share_of_numbers(answer, re.findall(r"段落(\d+)", target)[0])


def code_similarity(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """How alike the answer's first line of code and the right one are, in whole percent."""
    lines = answer.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    if not line or not target:
        return 0.0
    return round(100 * SequenceMatcher(None, line, target).ratio()) / 100


def choice_letter(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the answer says `The correct answer is (A)`, or the same without brackets, of the right letter."""
    text = answer.replace("*", "")
    said = re.search(r"The correct answer is \(([A-D])\)", text) or re.search(r"The correct answer is ([A-D])", text)
    return float(bool(said) and said[1] == target)


def first_number(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the answer's first number is the right one."""
    return float(next(iter(re.findall(r"[0-9]+", answer)), "") == target)


def last_number(answer: str, target: int, facts: Mapping[str, Any]) -> float:
    """Whether the answer's last word is the right number."""
    words = _words(answer, "\n.`'\":")
    try:
        return float(bool(words) and int(words[-1]) == target)
    except ValueError:
        return 0.0


def number_found(answer: str, target: float, facts: Mapping[str, Any]) -> float:
    """Whether the answer's first number is the right one, as an integer where that is one."""
    found = re.search(r"\d+\.\d+|\d+", answer)
    if found is None:
        return 0.0
    if isinstance(target, int):
        # Such a number with a fraction is no integer, where the official code ends with an error.
        return float(found[0].isdigit() and int(found[0]) == target)
    return float(float(found[0]) == target)


def numbers_in_order(answer: str, target: Sequence[int], facts: Mapping[str, Any]) -> float:
    """The share of a list of numbers that the answer gives before its first mistake."""
    said = map(int, re.findall(r"[0-9]+", answer))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(said, target, strict=False))) / len(target)


def word_among(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the target is one of the answer's words."""
    return float(target in _words(answer, "\n:\"'.,?!{}"))


def name_among(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """The same in upper case."""
    return float(target in [word.upper() for word in _words(answer, "\n:\"'.,?!{}")])


def book_choice(answer: str, target: Sequence[str], facts: Mapping[str, Any]) -> float:
    """Whether an answer chooses the right option, whose text and letter `target` gives."""
    text = answer.strip()
    if not text:
        return 0.0
    if text[0] in "ABCD":
        return float(text[0] in target)
    if text in target:
        return 1.0
    text = re.sub(r" +", " ", re.sub(r"[\n\"'.,?!{}]", " ", text))
    for prefix in ("answer is:", "answer:", "answer is", "option is"):
        if prefix in text:
            return _begins(text.partition(prefix)[2][1:], target)
    word = next((word for word in text.split() if word in "ABCD"), None)
    return float(word is not None and word in target)


def code_choice(answer: str, target: Sequence[str], facts: Mapping[str, Any]) -> float:
    """Whether an answer chooses the right function, whose name and letter `target` gives."""
    text = answer.strip()
    if text[:2] in (f"{target[1]}.", f"{target[1]}:"):
        return 1.0
    text = re.sub(r" +", " ", re.sub(r"\n|`|'|\"|-|\*|Option|option", " ", text))
    for prefix in ("answer is:", "is:", "answer:", "correct option is:"):
        if prefix in text:
            return _begins(text.partition(prefix)[2][1:], (target[1], target[0]))
    return 0.0


# The text itself.


def named(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the target stands in the answer, in any case."""
    return float(target.lower() in answer.lower())


def substring_match(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the normalized target stands in the normalized answer."""
    return float(normalized(target) in normalized(answer))


def contained(answer: str, target: str, facts: Mapping[str, Any]) -> float:
    """Whether the target stands in the answer, letter by letter."""
    return float(target in answer)


def _words(text: str, marks: str) -> list[str]:
    return text.strip().translate(str.maketrans(dict.fromkeys(marks, " "))).split()


def _begins(text: str, targets: Sequence[str]) -> float:
    return float(bool(text) and any(text.startswith(target) for target in targets))


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"this metric needs the package {name.partition('.')[0]}; pip install 'kvfrontier[benchmarks]'"
        ) from error


#: By the name that a benchmark's YAML uses.
METRICS: dict[str, Metric] = {
    function.__name__: function
    for function in (
        book_choice,
        character_f1_zh,
        choice_letter,
        classification,
        code_choice,
        code_similarity,
        contained,
        count,
        first_number,
        last_number,
        name_among,
        named,
        number_found,
        numbers_in_order,
        qa_f1,
        qa_f1_zh,
        retrieval,
        retrieval_zh,
        rouge_l,
        rouge_l_zh,
        rouge_lsum,
        substring_match,
        word_among,
    )
}
#: What must be importable for a metric.
NEEDS = {
    "qa_f1_zh": ("jieba",),
    "rouge_l": ("rouge",),
    "rouge_l_zh": ("jieba", "rouge"),
    "rouge_lsum": ("rouge_score",),
}


def require(metric: str) -> None:
    """Raise UsageError where a package is missing that the metric needs."""
    for package in NEEDS.get(metric, ()):
        _package(package)
