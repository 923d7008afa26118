"""Variable tracking: statements that hand one value from variable to variable, hidden in noise or prose."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, ClassVar

from kvfrontier.runners.errors import ContextError
from kvfrontier.runners.tasks import haystack
from kvfrontier.runners.tasks.answer import Sample
from kvfrontier.runners.tasks.ruler import filler
from kvfrontier.runners.tasks.ruler.task import RulerTask
from kvfrontier.runners.tasks.tokens import encode_inside

_LETTERS = 5
#: How long the solved example before the text is at most.
EXAMPLE_TOKENS = 500


@dataclass(frozen=True)
class VariableTracking(RulerTask):
    """Which variables have a value that is handed on from one to the next.

    haystack   "noise", or the name of a text in runners.texts
    chains     how many values are handed on; the first is asked for, the others distract
    hops       how often each is handed on: a chain has hops + 1 variables
    """

    haystack: str = "noise"
    chains: int = 1
    hops: int = 4

    name: ClassVar[str] = "ruler_vt"
    version: ClassVar[int] = 2
    words: ClassVar[dict[str, str]] = {
        "before": "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        "after": "\nQuestion: Find all variables that are assigned the value {value} in the text above.",
        "answer": " Answer: According to the chain(s) of variable assignment in the text above, {n} variables are "
        "assigned the value {value}, they are: ",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chains < 1 or self.hops < 1:
            raise ValueError(f"chains={self.chains}, hops={self.hops}: at least one of each is needed")

    @property
    def answer_tokens(self) -> int:
        return 30

    def data(self) -> str:
        return "ruler-noise-1" if self.haystack == "noise" else haystack.revision(self.haystack)

    def rules(self) -> dict[str, Any]:
        return super().rules() | {"example": f"one, of at most {EXAMPLE_TOKENS} tokens"}

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        names: dict[str, None] = {}
        while len(names) < self.chains * (self.hops + 1):
            names["".join(rng.choices(string.ascii_uppercase, k=_LETTERS))] = None
        variables = [list(names)[i :: self.chains] for i in range(self.chains)]
        values = [str(value) for value in rng.sample(range(10_000, 99_999), self.chains)]
        prose = self.haystack != "noise"
        chains = [_statements(v, value, prose) for v, value in zip(variables, values, strict=True)]

        filled = {"value": values[0], "n": self.hops + 1}
        before, after, answer = (self.words[part].format_map(filled) for part in ("before", "after", "answer"))
        head, question = self.frame(tokenizer, self._example(tokenizer, rng) + before, after, answer)
        separator = " " if prose else "\n"
        facts = [statement for chain in chains for statement in chain]
        room = self.room(
            context, head, question, *encode_inside(tokenizer, [separator + statement for statement in facts])
        )
        units = filler.prose(tokenizer, self.haystack, room) if prose else filler.noise(tokenizer, room)
        if len(units) < self.hops + 1:
            raise ContextError(f"context {context} is too short to set {self.hops + 1} statements apart; raise context")
        # A chain is in order; chains lie across each other.
        gaps = [gap for _ in chains for gap in sorted(rng.sample(range(len(units)), self.hops + 1))]
        ids, places = filler.hide(tokenizer, units, facts, gaps, separator)
        return Sample(
            context=head + ids,
            question=question,
            targets=tuple(variables[0]),
            facts={"value": values[0], "positions": [len(head) + place for place in places]},
        )

    def _example(self, tokenizer: Any, rng: random.Random) -> str:
        """The question about another text of at most 500 tokens, and its answer, as the official code puts before."""
        hops = min(10, self.hops)
        names = rng.sample(["".join(letters) for letters in product(string.ascii_uppercase, repeat=3)], hops + 1)
        value = str(rng.randint(10_000, 99_998))
        filled = {"value": value, "n": hops + 1}
        before, after, answer = (self.words[part].format_map(filled) for part in ("before", "after", "answer"))
        statements = _statements(names, value, prose=False)
        line, *around = (
            len(ids) for ids in encode_inside(tokenizer, ["\n" + filler.NOISE, before, after + answer, *statements])
        )
        lines = [filler.NOISE] * max(hops + 1, (EXAMPLE_TOKENS - sum(around)) // line)
        for i, place in enumerate(sorted(rng.sample(range(len(lines)), hops + 1))):
            lines.insert(place + i, statements[i])
        return f"{before}{chr(10).join(lines)}{after}{answer} {' '.join(names)}\n\n"


def _statements(variables: list[str], value: str, prose: bool) -> list[str]:
    handed = [f"VAR {b} = VAR {a} " for a, b in pairwise(variables)]
    statements = [f"VAR {variables[0]} = {value}", *handed]
    return [f"{statement.strip()}." for statement in statements] if prose else statements
