"""What all tasks share that ask a question and match the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from kvfrontier.methods import Dense, Window
from kvfrontier.runners.decoding import Sampling
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import make
from kvfrontier.runners.tasks.answer import AnswerTask, Sample
from kvfrontier.runners.tasks.tokens import encode


@dataclass(frozen=True)
class Growing(AnswerTask):
    """A task whose later samples are longer."""

    stop_at: tuple[str, ...] = ()

    name: ClassVar[str] = "growing"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "made"

    @property
    def answer_tokens(self) -> int:
        return 20

    @property
    def stop(self) -> tuple[str, ...]:
        return ("eos",)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return self.stop_at

    def data(self) -> str:
        return "made"

    def sample(self, tokenizer: Any, context: int, index: int, rng: Any) -> Sample:
        head, question = self.frame(tokenizer, "word " * 40 * (index + 1), "Which?", "")
        self.room(context, head, question)
        return Sample(head, question, (str(index),))


def run(task: AnswerTask, loaded: Any, method: Any = None) -> Any:
    opened = lambda: Session(loaded.model, method or Dense())  # noqa: E731
    return task.run(opened, opened, loaded, 1200, 0)


def test_a_context_that_cannot_hold_the_last_sample_is_refused_before_the_first_is_asked(tiny):
    Growing(samples=2).check(tiny, 600)
    with pytest.raises(UsageError, match="context 600 is too short"):
        Growing(samples=4).check(tiny, 600)


def test_answers_are_sampled_by_a_seed_of_their_own_each_sample_by_other_draws(tiny):
    def said(seed: int, method: Any = None) -> list[str]:
        task = Growing(samples=3, sampling=Sampling(temperature=3.0, seed=seed))
        return [sample["generation"] for sample in run(task, tiny, method).samples]

    assert said(1) == said(1) != said(2)
    assert len(set(said(1))) == 3
    # Every method draws the same numbers: where it agrees with dense, so do its answers.
    assert said(1) == said(1, Window(window=2000))


def test_how_an_answer_is_decoded_is_part_of_the_hash_and_greedy_goes_without_saying():
    greedy, sampled = make({"name": "needle"}), make({"name": "needle", "sampling": {"temperature": 0.5}})
    assert "sampling" not in greedy.parameters()
    assert sampled.parameters()["sampling"] == {"temperature": 0.5, "top_k": None, "top_p": 1.0, "seed": 0}
    assert greedy.hash() != sampled.hash() == make(sampled.parameters()).hash()
    with pytest.raises(UsageError, match=r"temperature=0\.0 must be more than 0"):
        make({"name": "needle", "sampling": {"temperature": 0}})


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(tiny):
    whole = run(Growing(samples=1), tiny).samples[0]["generation"]
    assert len(encode(tiny.tokenizer, whole)) > 6
    cut = whole[4:6]
    stopped = Growing(samples=1, stop_at=(cut,))
    assert run(stopped, tiny).samples[0]["generation"] == whole[: whole.index(cut)]
    assert stopped.rules()["stop_strings"] == [cut]
