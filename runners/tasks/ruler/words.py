"""What RULER makes its facts of: English words (the package wonderwords, as in the official code), numbers, UUIDs."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["words", "numbers", "uuids"]

_LISTS = ("nounlist", "adjectivelist", "verblist")


def draw(kind: Kind, rng: random.Random) -> str:
    """A key or value: adjective-noun, a number of seven digits, or a UUID of version 4."""
    return _DRAW[kind](rng)


def _words(rng: random.Random) -> str:
    return f"{rng.choice(_listed('adjectivelist'))}-{rng.choice(_listed('nounlist'))}"


_DRAW: dict[Kind, Callable[[random.Random], str]] = {
    "words": _words,
    "numbers": lambda rng: str(rng.randint(10**6, 10**7 - 1)),
    "uuids": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}


def distinct(n: int, rng: random.Random) -> list[str]:
    """`n` different words. The 8,600 of the lists are not enough for more than 150,000 tokens: others are then pairs
    of them."""
    single = sorted({word for name in _LISTS for word in _listed(name)})
    if n <= len(single):
        return rng.sample(single, n)
    pairs: dict[str, None] = {}
    while len(pairs) < n - len(single):
        pairs[_words(rng)] = None
    drawn = [*single, *pairs]
    rng.shuffle(drawn)
    return drawn


@cache
def revision() -> str:
    """Which lists of words."""
    listed = "\n".join("\n".join(_listed(name)) for name in _LISTS)
    return f"wonderwords-{hashlib.sha256(listed.encode()).hexdigest()[:12]}"


@cache
def _listed(name: str) -> tuple[str, ...]:
    text = files("wonderwords.assets").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(word.strip() for word in text.splitlines() if word.strip()))
