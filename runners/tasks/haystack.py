"""What a fact is hidden in: noise, or natural text by the name that runners.texts knows it by."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from kvfrontier.runners import texts
from kvfrontier.runners.tasks.tokens import encode_inside

#: RULER's noise (Hsieh et al. 2024, niah_single_1), a sentence a unit.
NOISE = ("The grass is green.", " The sky is blue.", " The sun is yellow.", " Here we go.", " There and back again.")
_NOISE_REVISION = "noise-1"

#: A sentence with the white space before it. One of more than 400 characters (a table, a listing) is cut after a
#: comma or the like, or between words.
_SENTENCE = re.compile(r"\s*\S(?:.{0,400}?[.!?][\"')\]]*(?=\s)|.{0,400}[,;:](?=\s)|.{0,400}(?=\s)|.{0,400})", re.DOTALL)
_CHARACTERS_PER_TOKEN = 5


def revision(name: str) -> str:
    """Which data a haystack of this name is made of."""
    return _NOISE_REVISION if name == "noise" else f"{name}-{texts.load_text(name).revision[:12]}"


def fill(tokenizer: Any, name: str, room: int, rng: random.Random) -> list[list[int]]:
    """Filler of at most `room` tokens, as a list of units (sentences) of token ids.

    Noise fills the room exactly: its last sentence is cut. Natural text begins at a sentence that `rng` draws, goes on
    from the beginning at its end, and is short by less than the sentence that would have come next.
    """
    units: list[list[int]] = []
    for unit in (
        _noise(tokenizer) if name == "noise" else _sentences(tokenizer, texts.load_text(name).content, rng, room)
    ):
        if len(unit) > room:
            if name == "noise" and room:
                units.append(unit[:room])
            break
        units.append(unit)
        room -= len(unit)
    return units


def between(
    units: Sequence[list[int]], pieces: Sequence[list[int]], gaps: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Token ids of the units with piece i before unit gaps[i] (len(units): after the last), those of one gap in their
    order; and where each piece begins."""
    ids: list[int] = []
    places = [0] * len(pieces)
    for at in range(len(units) + 1):
        for i, piece in enumerate(pieces):
            if gaps[i] == at:
                places[i] = len(ids)
                ids += piece
        ids += units[at] if at < len(units) else []
    return ids, places


def sentences(text: texts.Text) -> list[str]:
    """A text's sentences, without white space around them, and with one space between words."""
    content = re.sub(r"\s+", " ", text.content)
    return [match.group().strip() for match in _SENTENCE.finditer(content)]


def _noise(tokenizer: Any) -> Iterator[list[int]]:
    first, *rest = encode_inside(tokenizer, (*NOISE, " " + NOISE[0]))
    yield first
    yield from cycle(rest)


def _sentences(tokenizer: Any, text: str, rng: random.Random, room: int) -> Iterator[list[int]]:
    place = int(rng.random() * len(text))
    step = min(len(text), (room + 200) * _CHARACTERS_PER_TOKEN)
    begun = False
    left = ""
    while True:
        piece = left + text[place : place + step]
        place = place + step if place + step < len(text) else 0
        *sentences, last = _SENTENCE.finditer(piece)
        # The first was entered in the middle, and the last may go on in the next piece.
        left = piece[last.start() :]
        yield from encode_inside(tokenizer, [s.group() for s in sentences[0 if begun else 1 :]])
        begun = True
