"""Several questions about one context, the later ones unknown when it is compressed (after SCBench, Li et al. 2024,
arXiv 2412.10319: its multi-turn mode, in which the true answers stand in the conversation)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners.intervals import newcombe, wilson
from kvfrontier.runners.record import Score
from kvfrontier.runners.tasks.answer import AnswerTask, Sample, grade, read, row
from kvfrontier.runners.tasks.haystack import fill
from kvfrontier.runners.tasks.haystack import revision as haystack_revision
from kvfrontier.runners.tasks.needle import ADJECTIVES, NEEDLE, NOUNS, ONE, SEVERAL, hide, keys_and_numbers
from kvfrontier.runners.tasks.tokens import chat_turn, encode_inside

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session
    from kvfrontier.runners.tasks.task import States, Tokenizer


@dataclass(frozen=True)
class Conversation(Sample):
    """A first question, and those after it: for each the tokens that lead from the answer before to its own answer.
    `answers` are the token ids of the right ones."""

    later: tuple[list[int], ...] = ()
    answers: tuple[list[int], ...] = ()


@dataclass(frozen=True)
class MultiTurn(AnswerTask):
    """turns      how many questions are asked about one context, each for another number hidden there
    haystack   "noise", or the name of a text in runners.texts

    With compress_at=prompt the first question is part of what is compressed: a query-aware method is at its best
    there, and `drop` says how much worse it does when the question was not known.
    """

    turns: int = 4
    haystack: str = "noise"

    name: ClassVar[str] = "multi_turn"
    version: ClassVar[int] = 1
    primary: ClassVar[str] = "later"
    said: ClassVar[str] = "generations"
    summary: ClassVar[str] = "several questions about one context, the later ones unknown when it is compressed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.turns <= len(ADJECTIVES) * len(NOUNS):
            raise ValueError(f"turns={self.turns}: give 2 to {len(ADJECTIVES) * len(NOUNS)}")

    @property
    def answer_tokens(self) -> int:
        return 12  # seven digits, at worst a token each, a full stop and a line's end

    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        """Without the later turns, of which no sample has longer ones; a budget so holds for the prompt of each."""
        if tokenizer is None:
            return super().prompt_tokens(context)
        made = tokenizer()
        questions, answers = (
            max(map(len, pieces))
            for pieces in (
                encode_inside(made, [self._between(made, f"{a} {n}") for a in ADJECTIVES for n in NOUNS]),
                encode_inside(made, [f" {digit * 7}." for digit in "0123456789"]),
            )
        )
        return super().prompt_tokens(context) - (self.turns - 1) * (questions + answers)

    def data(self) -> str:
        return haystack_revision(self.haystack)

    def rules(self) -> dict[str, Any]:
        template = {"introduction": SEVERAL["introduction"], **ONE, "needle": NEEDLE, "keys": [ADJECTIVES, NOUNS]}
        metric = "exact match; first turn, mean of the later turns, and their difference"
        history = "the right answers, whatever was generated"
        return super().rules() | {"template": template, "metric": metric, "history": history}

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Conversation:
        keys, numbers = keys_and_numbers(rng, self.turns, self.turns)
        pairs = list(zip(keys, numbers, strict=True))
        needles = encode_inside(tokenizer, [NEEDLE.format(key=key, value=value) for key, value in pairs])
        question, begun = (ONE[part].format(keys=keys[0]) for part in ("question", "answer"))
        head, first = self.frame(tokenizer, SEVERAL["introduction"], "\n" + question.strip(), begun, bare_break="\n")
        between = [self._between(tokenizer, key) for key in keys[1:]]
        later, answers = encode_inside(tokenizer, between), encode_inside(tokenizer, [f" {n}." for n in numbers])
        # The last answer is generated, and not given.
        room = self.room(context, head, first, *needles, *later, *answers[:-1])
        hidden, places = hide(fill(tokenizer, self.haystack, room, rng), needles, [rng.random() for _ in keys])
        return Conversation(
            context=head + hidden,
            question=first,
            targets=tuple(numbers),
            facts={"keys": keys, "positions": [len(head) + place for place in places]},
            later=tuple(later),
            answers=tuple(answers),
        )

    def _between(self, tokenizer: Any, key: str) -> str:
        """What leads from one answer to the next, which is about `key`."""
        question, begun = (ONE[part].format(keys=key) for part in ("question", "answer"))
        question = question.strip()
        return (chat_turn(tokenizer, question) if self.chat_template else f"\n{question}\n") + begun

    def ask(
        self, session: Session, sample: Sample, tokenizer: Any, chunk: int | None, states: States
    ) -> dict[str, Any]:
        assert isinstance(sample, Conversation)
        read(session, sample, self.compress_at, chunk)
        states.sealed(session)
        said: list[str] = []
        for turn, question in enumerate((sample.question, *sample.later)):
            if turn:
                session.decode(row(sample.answers[turn - 1] + question, session))
            elif self.compress_at == "context":
                session.decode(row(question, session))
            said.append(self.generate(session.fork(), tokenizer, sample.number * self.turns + turn))
        states.scored(session)
        return {self.said: said, **self.grade(said, sample.targets)}

    def grade(self, text: list[str], targets: tuple[str, ...]) -> dict[str, Any]:
        right = [grade(said, (target,))["correct"] for said, target in zip(text, targets, strict=True)]
        first, later = float(right[0]), sum(right[1:]) / (len(right) - 1)
        return {"correct": right, "first": first, "later": later, "drop": first - later}

    def pieces(self, sample: Sample) -> dict[str, list[int]]:
        assert isinstance(sample, Conversation)
        turns = [sample.question, *sample.later]
        told = {f"answer {turn}": answer for turn, answer in enumerate(sample.answers[:-1], 1)}
        asked = {f"question {turn}": question for turn, question in enumerate(turns, 1)}
        order = [f"{part} {turn}" for turn in range(1, len(turns) + 1) for part in ("question", "answer")][:-1]
        return {"context": sample.context} | {name: (asked | told)[name] for name in order}

    def score(self, results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
        n = len(results)
        first, later = ([float(r[name]) for r in results] for name in ("first", "later"))

        def proportion(values: list[float]) -> Score:
            # The later questions of one conversation share what was compressed: together they are one sample.
            low, high = wilson(sum(values), n)
            return Score(value=sum(values) / n, n=n, low=low, high=high, interval="wilson")

        low, high = newcombe(first, later)
        value = sum(r["drop"] for r in results) / n
        drop = Score(value=value, n=n, low=low, high=high, interval="newcombe", higher_is_better=False)
        return {"later": proportion(later), "first": proportion(first), "drop": drop}
