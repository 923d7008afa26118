"""NoLiMa: a needle that shares no word with the question about it, set into a book."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.benchmarks import source
from kvfrontier.runners.tasks.benchmarks.task import BenchmarkTask
from kvfrontier.runners.tasks.needle import hide
from kvfrontier.runners.tasks.ruler import filler
from kvfrontier.runners.tasks.tokens import encode_inside

#: What the data's own prompts call the book, and the question.
_BOOK, _QUESTION = "{haystack}", "{question}"


@dataclass(frozen=True)
class NoLiMa(BenchmarkTask):
    """NoLiMa's needles in shuffled books, asked for by association and not by words (Modarressi et al. 2025).

    depth   where the needle is, from 0 (the book's beginning) to 1, or "even": spread over the samples from 0 to 1

    A sample is a needle, a question about it and a book, drawn by the seed; the character of the needle, who is the
    right answer, is drawn too. The book fills the context line by line. No system prompt is set.
    """

    dataset: str = "needle_set"
    depth: float | str = "even"

    name: ClassVar[str] = "nolima"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth != "even" and not (isinstance(self.depth, (int, float)) and 0 <= self.depth <= 1):
            raise ValueError(f"depth={self.depth}: give a number from 0 to 1, or even")

    def rules(self) -> dict[str, Any]:
        # The prompt is the data's own.
        return super().rules() | {"truncation": "none: the filler is chosen to fit"}

    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"prompt": "task_template of the data", "file": f"needlesets/{self.dataset}.json"}

    def rows(self) -> source.Rows:
        """Every needle with each of its tests and each of its questions."""
        found = _needles(f"needlesets/{self.dataset}.json", self._hub, self.path)
        books = [_book(f"haystack/rand_shuffle/{name}.txt", self._hub, self.path) for name in self._books]
        return source.Rows(found.rows, f"{found.revision}-{source.digest(*books)}")

    @property
    def _hub(self) -> source.Hub:
        hub = source.described(self.name)["hub"]
        return source.Hub(**{**hub, "revision": self.revision or hub["revision"]})

    @property
    def _books(self) -> list[str]:
        return source.described(self.name)["books"]

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        row = rng.choice(self.rows().rows)
        book = rng.choice(self._books)
        character = rng.choice(row["characters"]) if row["characters"] else ""
        needle, asked = (text.replace("{CHAR}", character) for text in (row["needle"], row["question"]))
        before, _, after = row["template"].partition(_BOOK)
        head, question = self.frame(tokenizer, before, after.replace(_QUESTION, asked), "")
        (hidden,) = encode_inside(tokenizer, ["\n" + needle])
        lines = _book(f"haystack/rand_shuffle/{book}.txt", self._hub, self.path).splitlines()
        room = self.room(context, head, question, hidden)
        units = [unit.ids for unit in filler.units(tokenizer, iter(lines), "\n", room)]
        if len(units) == len(lines):
            raise ContextError(f"context {context} is longer than {book}; lower context")
        depth = self.spread(index) if isinstance(self.depth, str) else self.depth
        ids, places = hide(units, [hidden], [depth])
        return Sample(
            context=head + ids,
            question=question,
            targets=(character,) if character else tuple(row["answers"]),
            facts={"id": row["id"], "book": book, "depth": depth, "position": len(head) + places[0]},
        )


@lru_cache(maxsize=4)
def _needles(file: str, hub: source.Hub, path: str | None) -> source.Rows:
    found = source.rows(file, hub, path)
    return source.Rows([row for entry in found.rows for row in _of_entry(entry)], found.revision)


def _of_entry(entry: source.Row) -> list[source.Row]:
    """Each test of a needle with each of its questions. Raises UsageError for an entry without a prompt."""
    if _BOOK not in entry.get("task_template", ""):
        raise UsageError(f"needle {entry.get('id')} has no task_template with {_BOOK}; name another set of needles")
    made = []
    for kind, question in entry["questions"].items():
        for name, test in entry["tests"].items():
            texts = [entry["needle"], question]
            for number, value in enumerate(source.Row(test, f"{entry.place} test {name}")["input_args"], 1):
                texts = [text.replace(f"{{{number}}}", value) for text in texts]
            fields = {
                "id": f"{entry['id']}_{name}_{kind}",
                "template": entry["task_template"],
                "needle": texts[0],
                "question": texts[1],
                "characters": entry.get("character_set", []),
                "answers": test.get("gold_answers", []),
            }
            made.append(source.Row(fields, entry.place))
    return made


@lru_cache(maxsize=8)
def _book(file: str, hub: source.Hub, path: str | None) -> str:
    return source.content(file, hub, path).decode("utf-8")
