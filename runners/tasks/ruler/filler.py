"""What RULER hides facts in: repeated noise, other needles, or natural text; and setting facts between its units."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice, repeat
from typing import Any

from kvfrontier.runners import texts
from kvfrontier.runners.tasks import haystack
from kvfrontier.runners.tasks.tokens import encode_inside

#: The noise of niah_single_1 and of variable tracking, one line of it.
NOISE = "".join(haystack.NOISE)
#: Units are tokenized so many at a time, until the room is full.
_BATCH = 256


@dataclass(frozen=True)
class Unit:
    """A piece of filler, and its token ids with the separator before it."""

    text: str
    ids: list[int]


def units(tokenizer: Any, source: Iterator[str], separator: str, room: int) -> list[Unit]:
    """As many of the source's pieces, in order, as fit into `room` tokens."""
    fitting: list[Unit] = []
    while True:
        batch = list(islice(source, _BATCH))
        for text, ids in zip(batch, encode_inside(tokenizer, [separator + text for text in batch]), strict=True):
            if len(ids) > room:
                return fitting
            room -= len(ids)
            fitting.append(Unit(text, ids))
        if not batch:
            return fitting


def noise(tokenizer: Any, room: int) -> list[Unit]:
    """Lines of noise."""
    ids = encode_inside(tokenizer, ["\n" + NOISE])[0]
    return list(repeat(Unit(NOISE, ids), room // len(ids)))


def prose(tokenizer: Any, name: str, room: int) -> list[Unit]:
    """Sentences of a text of runners.texts from its beginning, white space between words made one space; a text that
    is too short begins again."""
    fitting: list[Unit] = []
    for unit in cycle(_sentences(tokenizer, texts.load_text(name))):
        if len(unit.ids) > room:
            break
        room -= len(unit.ids)
        fitting.append(unit)
    return fitting


@lru_cache(maxsize=4)
def _sentences(tokenizer: Any, text: texts.Text) -> list[Unit]:
    """A text is tokenized once for all samples of all tasks."""
    found = haystack.sentences(text)
    return [
        Unit(sentence, ids)
        for sentence, ids in zip(found, encode_inside(tokenizer, [f" {s}" for s in found]), strict=True)
        if sentence
    ]


def drawn(make: Callable[[random.Random], str], rng: random.Random) -> Iterator[str]:
    """Pieces made one after the other, without end."""
    while True:
        yield make(rng)


def hide(
    tokenizer: Any, filler: Sequence[Unit], facts: Sequence[str], gaps: Sequence[int], separator: str
) -> tuple[list[int], list[int]]:
    """Token ids of the filler with the facts in its gaps (fact i before unit gaps[i]), and where each fact begins.

    No separator stands before the first piece.
    """
    units = [unit.ids for unit in filler]
    pieces = encode_inside(tokenizer, [separator + fact for fact in facts])
    # No separator stands before the first of all.
    if 0 in gaps:
        first = gaps.index(0)
        pieces[first] = encode_inside(tokenizer, [facts[first]])[0]
    elif units:
        units[0] = encode_inside(tokenizer, [filler[0].text])[0]
    return haystack.between(units, pieces, gaps)
