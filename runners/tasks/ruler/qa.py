"""Questions about documents, hidden among others: SQuAD and HotpotQA as in RULER, and a cloze made of a text that needs
no download of its own."""

from __future__ import annotations

import hashlib
import json
import random
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners import texts
from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.tasks import haystack
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.ruler.task import RulerTask
from kvfrontier.runners.tasks.tokens import encode_inside

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel


@dataclass(frozen=True)
class Question:
    """query, its right answers, the documents that it is about (`gold`), and others of the same article (`near`), by
    number."""

    query: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Questions, the documents that they are asked about, and which data it is."""

    questions: Sequence[Question]
    documents: Sequence[str]
    revision: str


@dataclass(frozen=True)
class DocumentQA(RulerTask):
    """Sample i is question i of the data. Its own documents are always there; others of the same article come first
    among the distractors, and the rest is drawn."""

    version: ClassVar[int] = 1
    any_target: ClassVar[bool] = True
    words: ClassVar[dict[str, str]] = {
        "before": "Answer the question based on the given documents. Only give me the answer and do not output any "
        "other words.\n\nThe following are given documents.\n\n",
        "after": "\n\nAnswer the question based on the given documents. Only give me the answer and do not output any "
        "other words.\n\nQuestion: {query}",
        "answer": " Answer:",
    }

    @property
    def answer_tokens(self) -> int:
        return 32

    @abstractmethod
    def corpus(self) -> Corpus:
        """The data. Raises UsageError where it is not there."""

    def data(self) -> str:
        return self.corpus().revision

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        super().check(loaded, context, seed)
        there = len(self.corpus().questions)
        if self.samples > there:
            raise UsageError(f"task.samples={self.samples}: {self.name} has {there} questions; lower it")

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        corpus = self.corpus()
        if index >= len(corpus.questions):
            raise UsageError(f"task.samples: {self.name} has {len(corpus.questions)} questions; lower it")
        asked = corpus.questions[index]
        after = self.words["after"].format(query=asked.query)
        head, question = self.frame(tokenizer, self.words["before"], after, self.words["answer"])
        room = self.room(context, head, question)

        def size(place: int, document: int) -> int:
            return len(_number(tokenizer, place)) + len(_document(tokenizer, corpus, document))

        chosen = list(asked.gold)
        room -= sum(size(place, document) for place, document in enumerate(chosen, 1))
        if room < 0:
            raise ContextError(f"context {context} is too short for the documents of question {index}; raise context")
        taken = {*asked.gold, *asked.near}
        near = rng.sample(asked.near, len(asked.near))
        far = [d for d in rng.sample(range(len(corpus.documents)), len(corpus.documents)) if d not in taken]
        # Where there are not enough documents, others than those of the question come again, as in the official code.
        for document in chain(near, cycle(far)):
            room -= size(len(chosen) + 1, document)
            if room < 0:
                break
            chosen.append(document)
        rng.shuffle(chosen)
        body: list[int] = []
        for place, document in enumerate(chosen, 1):
            body += _number(tokenizer, place) + _document(tokenizer, corpus, document)
        gold = sorted(chosen.index(document) + 1 for document in asked.gold)
        return Sample(head + body, question, asked.answers, {"documents": len(chosen), "gold": gold})


def _number(tokenizer: Any, place: int) -> list[int]:
    """A document's heading; an empty line parts it from the one before."""
    return _ids(tokenizer, f"{'' if place == 1 else chr(10) * 2}Document {place}:\n")


def _document(tokenizer: Any, corpus: Corpus, document: int) -> list[int]:
    return _ids(tokenizer, corpus.documents[document])


@lru_cache(maxsize=1 << 16)
def _ids(tokenizer: Any, text: str) -> list[int]:
    return encode_inside(tokenizer, [text])[0]


# Data in files.


@dataclass(frozen=True)
class _FileQA(DocumentQA):
    """path   the data's own JSON file; where it lies decides nothing, and what it holds is part of the sample set"""

    path: str | None = None

    source: ClassVar[str]
    size: ClassVar[tuple[str, ...]] = ("samples", "path")

    def corpus(self) -> Corpus:
        if self.path is None:
            raise UsageError(
                f"task.path is not set: {self.name} reads {self.source}; download it and name the file, or take "
                "task=cloze_qa, which needs none"
            )
        return _load(self.path, self.read)

    @staticmethod
    @abstractmethod
    def read(data: Any) -> tuple[list[Question], list[str]]:
        """Questions and documents of the parsed file."""


@lru_cache(maxsize=4)
def _load(path: str, read: Callable[[Any], tuple[list[Question], list[str]]]) -> Corpus:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"task.path={path}: {error.strerror}; name a JSON file that can be read") from error
    try:
        questions, documents = read(json.loads(raw))
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"task.path={path} is not of the format that is asked for ({error!r})") from error
    if not questions:
        raise UsageError(f"task.path={path} holds no question that can be answered")
    return Corpus(questions, documents, f"{Path(path).name}-{hashlib.sha256(raw).hexdigest()[:12]}")


@dataclass(frozen=True)
class SquadQA(_FileQA):
    """SQuAD's questions, each about one paragraph among others (qa_1).

    path   SQuAD 2.0's dev-v2.0.json
    """

    name: ClassVar[str] = "ruler_qa_squad"
    source: ClassVar[str] = "SQuAD 2.0's dev-v2.0.json (rajpurkar.github.io/SQuAD-explorer)"

    @staticmethod
    def read(data: Any) -> tuple[list[Question], list[str]]:
        articles = [[paragraph["context"] for paragraph in article["paragraphs"]] for article in data["data"]]
        documents = sorted({paragraph for article in articles for paragraph in article})
        number = {document: i for i, document in enumerate(documents)}
        return [
            Question(
                query=qa["question"],
                answers=tuple(dict.fromkeys(answer["text"] for answer in qa["answers"])),
                gold=(number[paragraph["context"]],),
                near=tuple(dict.fromkeys(number[p] for p in paragraphs if p != paragraph["context"])),
            )
            for article, paragraphs in zip(data["data"], articles, strict=True)
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
            if not qa.get("is_impossible", False)
        ], documents


@dataclass(frozen=True)
class HotpotQA(_FileQA):
    """HotpotQA's questions, whose answers need two of the documents (qa_2).

    path   hotpot_dev_distractor_v1.json
    """

    name: ClassVar[str] = "ruler_qa_hotpot"
    source: ClassVar[str] = "HotpotQA's hotpot_dev_distractor_v1.json (hotpotqa.github.io)"

    @staticmethod
    def read(data: Any) -> tuple[list[Question], list[str]]:
        own = [[f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]] for entry in data]
        documents = sorted({document for entry in own for document in entry})
        number = {document: i for i, document in enumerate(documents)}
        return [
            Question(entry["question"], (entry["answer"],), tuple(dict.fromkeys(number[d] for d in mine)))
            for entry, mine in zip(data, own, strict=True)
        ], documents


# Data of our own.


@dataclass(frozen=True)
class ClozeQA(DocumentQA):
    """Which word is missing from a sentence of one of many passages. Ours, not RULER's: it needs no data set.

    text   the name of a text in runners.texts. Its passages are the documents; the question shows a sentence of one
           with a word left out that the text has nowhere else
    """

    text: str = "essays"

    name: ClassVar[str] = "cloze_qa"
    version: ClassVar[int] = 2

    def corpus(self) -> Corpus:
        return _cloze(texts.load_text(self.text))


_PASSAGE_WORDS = 80
_QUESTIONS = 1000
_WORD = re.compile(r"[A-Za-z]+")


@lru_cache(maxsize=4)
def _cloze(text: texts.Text) -> Corpus:
    sentences = haystack.sentences(text)
    counts = Counter(word.lower() for word in _WORD.findall(text.content))
    passages: list[list[str]] = [[]]
    for sentence in sentences:
        if sum(len(s.split()) for s in passages[-1]) >= _PASSAGE_WORDS:
            passages.append([])
        passages[-1].append(sentence)
    questions = [
        Question(query=f'Which word is missing here: "{_without(word, sentence)}"', answers=(word,), gold=(number,))
        for number, passage in enumerate(passages)
        for sentence in passage
        if len(sentence.split()) >= 8
        for word in _WORD.findall(sentence)
        if len(word) >= 6 and word.islower() and counts[word] == 1
    ]
    random.Random(0).shuffle(questions)
    return Corpus(questions[:_QUESTIONS], [" ".join(passage) for passage in passages], haystack.revision(text.name))


def _without(word: str, sentence: str) -> str:
    return re.sub(rf"\b{word}\b", "____", sentence)
