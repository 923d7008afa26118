"""Passages of natural text, as token ids, whose last tokens do not depend on how much comes before them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from kvfrontier.runners import texts
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.tasks.tokens import encode, encode_inside, opening_ids

#: Where in a text passages to be scored are drawn from: late, so that long contexts find room before them.
_REGION = (0.75, 0.95)
_CHARACTERS_PER_TOKEN = 6
#: Tokens at the cut edge of a text that are not as they would be in the whole of it.
_EDGE = 16


@dataclass(frozen=True)
class Passage:
    """Token ids: `context`, what the model has read, and `scored`, what follows. `place` is the character of the text
    at which the scored part begins."""

    text: str
    revision: str
    place: int
    context: list[int]
    scored: list[int]


def passage(tokenizer: Any, name: str, context: int, scored: int, index: int, count: int, seed: int) -> Passage:
    """Passage `index` of `count` in a text: `context` tokens in all, the last `scored` of them to be scored.

    The scored tokens begin a paragraph that `seed` draws in the `index`-th part of the text's last quarter. They are
    the same for every context, so a longer context only adds to what the model has read before. Raises UsageError
    where the text is too short.
    """
    text = texts.load_text(name)
    first, last = _REGION
    drawn = random.Random(f"passage {name} {seed} {index}").random()
    place = _paragraph(text.content, int(len(text.content) * (first + (last - first) * (index + drawn) / count)))
    opening = opening_ids(tokenizer)
    before = _before(tokenizer, text.content, place, context - scored - len(opening))
    after = encode_inside(tokenizer, [text.content[place : place + (scored + _EDGE) * 2 * _CHARACTERS_PER_TOKEN]])[0]
    if before is None or len(after) < scored:
        raise UsageError(f"text {name!r} is too short for context {context}; name longer ones in task.texts")
    return Passage(name, text.revision, place, opening + before, after[:scored])


def _paragraph(text: str, place: int) -> int:
    """The beginning of the next paragraph, or of the next line, or `place` itself."""
    for end in ("\n\n", "\n"):
        found = text.find(end, place)
        if 0 <= found < place + 2000:
            place = found + len(end)
            break
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _before(tokenizer: Any, text: str, place: int, n: int) -> list[int] | None:
    """The last `n` tokens before `place`, or None where there are fewer."""
    if n <= 0:
        return []
    characters = (n + _EDGE) * _CHARACTERS_PER_TOKEN
    while True:
        start = max(0, place - characters)
        ids = encode(tokenizer, text[start:place])
        if len(ids) >= n + (_EDGE if start else 0):
            return ids[-n:]
        if not start:
            return None
        characters *= 2
