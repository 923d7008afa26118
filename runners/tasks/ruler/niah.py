"""Needles in a haystack, of RULER's eight kinds: single 1 to 3, multikey 1 to 3, multivalue, multiquery."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from kvfrontier.runners.tasks import haystack
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.ruler import filler
from kvfrontier.runners.tasks.ruler.task import RulerTask
from kvfrontier.runners.tasks.ruler.words import Kind, draw, revision
from kvfrontier.runners.tasks.tokens import encode_inside

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
#: The official code puts needles into prose at this many evenly spaced depths, its beginning and end among them.
DEPTHS = 40


@dataclass(frozen=True)
class Niah(RulerTask):
    """haystack   "noise" (repeated lines), "needles" (others of the same kind), or the name of a text in runners.texts

    Of the class: how many `keys` are hidden, how many `values` each of them has, how many of them are asked for
    (`queries`), and what keys and values are.
    """

    haystack: str = "essays"

    version: ClassVar[int] = 1
    keys: ClassVar[int] = 1
    values: ClassVar[int] = 1
    queries: ClassVar[int] = 1
    key_kind: ClassVar[Kind] = "words"
    value_kind: ClassVar[Kind] = "numbers"
    words: ClassVar[dict[str, str]] = {
        "before": "{some} special magic {kind} {are} hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {kind} afterwards.\n",
        "after": "\nWhat {are all} the special magic {kind} for {query} mentioned in the provided text?",
        "answer": " The special magic {kind} for {query} mentioned in the provided text {are}",
    }

    @property
    def answer_tokens(self) -> int:
        return 128

    def data(self) -> str:
        made = self.haystack in ("noise", "needles")
        filled = f"ruler-{self.haystack}-1" if made else haystack.revision(self.haystack)
        return f"{filled},{revision()}" if self.key_kind == "words" else filled

    def rules(self) -> dict[str, Any]:
        counts = {"keys": self.keys, "values": self.values, "queries": self.queries}
        kinds = {"key_kind": self.key_kind, "value_kind": self.value_kind, "needle": NEEDLE}
        return super().rules() | counts | kinds

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        named: dict[str, list[str]] = {}
        while len(named) < self.keys:
            named[draw(self.key_kind, rng)] = [draw(self.value_kind, rng) for _ in range(self.values)]
        needles = [self._needle(key, value) for key, values in named.items() for value in values]
        rng.shuffle(needles)
        asked = rng.sample(list(named), self.queries)

        head, question = self._words_around(tokenizer, asked)
        prose = self.haystack not in ("noise", "needles")
        separator = " " if prose else "\n"
        facts = encode_inside(tokenizer, [separator + needle for needle in needles])
        room = self.room(context, head, question, *facts)
        units = self._filler(tokenizer, room, rng)
        gaps = self._gaps(len(units), len(needles), prose, rng)
        ids, places = filler.hide(tokenizer, units, needles, gaps, separator)
        return Sample(
            context=head + ids,
            question=question,
            targets=tuple(value for key in asked for value in named[key]),
            facts={
                "keys": asked,
                "depths": [gap / max(1, len(units)) for gap in gaps],
                "positions": [len(head) + place for place in places],
            },
        )

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _filler(self, tokenizer: Any, room: int, rng: random.Random) -> list[filler.Unit]:
        if self.haystack == "noise":
            return filler.noise(tokenizer, room)
        if self.haystack == "needles":
            source = filler.drawn(lambda rng: self._needle(draw(self.key_kind, rng), draw(self.value_kind, rng)), rng)
            return filler.units(tokenizer, source, "\n", room)
        return filler.prose(tokenizer, self.haystack, room)

    @staticmethod
    def _gaps(n: int, needles: int, prose: bool, rng: random.Random) -> list[int]:
        """Before which unit each needle stands: at one of 40 depths of prose, before any line of what repeats."""
        if prose:
            depths = rng.sample([round(100 * i / (DEPTHS - 1)) for i in range(DEPTHS)], needles)
            return [int(n * depth / 100) for depth in depths]
        return rng.sample(range(n), needles) if n >= needles else [rng.randint(0, n) for _ in range(needles)]

    def _words_around(self, tokenizer: Any, asked: list[str]) -> tuple[list[int], list[int]]:
        one = self.queries * self.values == 1
        query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
        # The official code turns the plural into the singular where one value is asked for.
        filled = {
            "some": "A" if one else "Some",
            "are": "is" if one else "are",
            "are all": "is" if one else "are all",
            "kind": self.value_kind.removesuffix("s") if one else self.value_kind,
            "query": query,
        }
        before, after, answer = (self.words[part].format_map(filled) for part in ("before", "after", "answer"))
        return self.frame(tokenizer, before, after, answer)


@dataclass(frozen=True)
class NiahSingle1(Niah):
    """One number in repeated noise."""

    haystack: str = "noise"
    name: ClassVar[str] = "niah_single_1"


@dataclass(frozen=True)
class NiahSingle2(Niah):
    """One number in essays."""

    name: ClassVar[str] = "niah_single_2"


@dataclass(frozen=True)
class NiahSingle3(Niah):
    """One UUID in essays."""

    name: ClassVar[str] = "niah_single_3"
    value_kind: ClassVar[Kind] = "uuids"


@dataclass(frozen=True)
class NiahMultikey1(Niah):
    """One of four numbers in essays, the others distract."""

    name: ClassVar[str] = "niah_multikey_1"
    keys: ClassVar[int] = 4


@dataclass(frozen=True)
class NiahMultikey2(Niah):
    """One number among nothing but such numbers."""

    haystack: str = "needles"
    name: ClassVar[str] = "niah_multikey_2"


@dataclass(frozen=True)
class NiahMultikey3(Niah):
    """One UUID by a UUID, among nothing but such pairs."""

    haystack: str = "needles"
    name: ClassVar[str] = "niah_multikey_3"
    key_kind: ClassVar[Kind] = "uuids"
    value_kind: ClassVar[Kind] = "uuids"


@dataclass(frozen=True)
class NiahMultivalue(Niah):
    """All four numbers of one key, in essays."""

    name: ClassVar[str] = "niah_multivalue"
    values: ClassVar[int] = 4


@dataclass(frozen=True)
class NiahMultiquery(Niah):
    """The numbers of four keys, in essays."""

    name: ClassVar[str] = "niah_multiquery"
    keys: ClassVar[int] = 4
    queries: ClassVar[int] = 4
