"""What RULER's tasks share: the words around a text, and how an answer is scored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from kvfrontier.runners.intervals import interval
from kvfrontier.runners.record import Score
from kvfrontier.runners.tasks.answer import AnswerTask


@dataclass(frozen=True)
class RulerTask(AnswerTask):
    """A task of RULER. A target counts as named where it stands anywhere in the answer, in upper or lower case
    (scripts/eval/synthetic/constants.py: string_match_all, and string_match_part where any target will do)."""

    primary: ClassVar[str] = "recall"
    #: What the text is set between, and how the answer is begun; {} are filled in sample by sample.
    words: ClassVar[dict[str, str]]
    #: Whether one of the targets is enough.
    any_target: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """A task's summary is the first sentence of its docstring."""
        if cls.__doc__:
            cls.summary = cls.__doc__.partition(".")[0]

    @property
    def stop(self) -> tuple[str, ...]:
        return ("eos",)

    def rules(self) -> dict[str, Any]:
        metric = "the best" if self.any_target else "the share"
        return super().rules() | {
            "metric": f"{metric} of the targets that the answer contains, in any case",
            "template": dict(self.words),
        }

    def grade(self, text: str, targets: tuple[str, ...]) -> dict[str, Any]:
        """`recall`, from 0 to 1."""
        # Control characters are line ends to the official script.
        said = re.sub(r"[\x00-\x1f]", "\n", text).lower()
        named = [target.lower() in said for target in targets]
        return {"recall": float(any(named)) if self.any_target else sum(named) / len(named)}

    def score(self, results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
        recalls = [r["recall"] for r in results]
        low, high, kind = interval(recalls, seed)
        return {"recall": Score(value=sum(recalls) / len(recalls), n=len(recalls), low=low, high=high, interval=kind)}
