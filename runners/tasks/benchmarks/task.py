"""Benchmarks that are rows, a prompt and a metric each: LongBench, LongBench v2, InfiniteBench, HELMET's recall."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.intervals import interval
from kvfrontier.runners.record import Score
from kvfrontier.runners.tasks.answer import AnswerTask, Sample
from kvfrontier.runners.tasks.benchmarks import metrics, source
from kvfrontier.runners.tasks.tokens import encode, encode_inside, opening_ids

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel

#: Where a prompt is parted: what comes before is compressed with the text, what comes after is the question.
_CONTEXT = "{context}"


@dataclass(frozen=True)
class BenchmarkTask(AnswerTask):
    """dataset   which of the benchmark's data sets
    path      a folder that holds its file, or the file; null: the hub, at the pinned commit
    revision  another commit of the hub than the pinned one

    Samples are the first of a fixed shuffle of the rows. A prompt longer than `context` loses its middle, as in the
    official code.
    """

    samples: int = 20
    dataset: str = ""
    path: str | None = None
    revision: str | None = None

    primary: ClassVar[str] = "score"
    size: ClassVar[tuple[str, ...]] = ("samples", "path", "revision")

    def __init_subclass__(cls) -> None:
        """A task's summary is the first sentence of its docstring."""
        if cls.__doc__:
            cls.summary = cls.__doc__.partition(".")[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        known = source.described(self.name)["datasets"]
        if self.dataset not in known:
            raise ValueError(str(unknown("data set", self.dataset, known)))

    @property
    def spec(self) -> dict[str, Any]:
        """What the benchmark's YAML says of the data set."""
        about = source.described(self.name)
        return {"file": about.get("file"), **about.get("each", {}), **about["datasets"][self.dataset]}

    @property
    def chance(self) -> float:
        """One over the choices, where the question lists some."""
        return 1 / self.spec["choices"] if "choices" in self.spec else 0.0

    @property
    def answer_tokens(self) -> int:
        return self.spec["new_tokens"]

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self.spec.get("stop", ("eos",)))

    def rules(self) -> dict[str, Any]:
        spec = self.spec
        return super().rules() | {
            "template": spec["prompt"],
            "chat_template": self.chat_template and spec.get("chat", True),
            "metric": spec["metric"] + (" of the answer's first line" if spec.get("first_line") else ""),
            "truncation": "the middle of the prompt",
        }

    def rows(self) -> source.Rows:
        """The data set's rows. Raises UsageError where they cannot be had."""
        hub = source.described(self.name).get("hub")
        where = source.Hub(**{**hub, "revision": self.revision or hub["revision"]}) if hub else None
        found = source.rows(self.spec["file"].format(dataset=self.dataset), where, self.path)
        only = self.spec.get("only", {})
        return source.Rows([r for r in found.rows if all(r[k] == v for k, v in only.items())], found.revision)

    def data(self) -> str:
        return f"{self.name}-{self.dataset}-{self.rows().revision}"

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        metrics.require(self.spec["metric"])
        there = len(self.rows().rows)
        if self.samples > there:
            raise UsageError(f"task.samples={self.samples}: {self.name} {self.dataset} has {there} rows; lower it")
        super().check(loaded, context, seed)

    def sample(self, tokenizer: Any, context: int, index: int, rng: random.Random) -> Sample:
        rows = self.rows().rows
        if index >= len(rows):
            raise UsageError(f"task.samples: {self.name} {self.dataset} has {len(rows)} rows; lower it")
        order = list(range(len(rows)))
        random.Random(f"{self.name} {self.dataset}").shuffle(order)
        row = self.adapted(rows[order[index]])
        before, _, after = self.spec["prompt"].partition(_CONTEXT)
        head, question = self._halves(tokenizer, *(_filled(text, row) for text in (before, after)))
        room = self.room(context, head, question)
        text = encode_inside(tokenizer, [row["context"]])[0] if row["context"] else []
        cut = max(0, len(text) - room)
        if cut:
            # Half of the whole prompt stays at either end.
            left = min(max((len(head) + room + len(question)) // 2 - len(head), 0), room)
            text = text[:left] + text[len(text) - (room - left) :]
        facts = {"row": order[index], "cut_tokens": cut, **self.facts(row)}
        return Sample(head + text, question, tuple(self.targets(row)), facts)

    def _halves(self, tokenizer: Any, before: str, after: str) -> tuple[list[int], list[int]]:
        if self.spec.get("chat", True):
            return self.frame(tokenizer, before, after, "")
        return opening_ids(tokenizer) + encode(tokenizer, before), encode_inside(tokenizer, [after])[0]

    def adapted(self, row: source.Row) -> source.Row:
        """A row with all that the prompt names."""
        return row

    def targets(self, row: Mapping[str, Any]) -> Sequence[Any]:
        """The right answers of an adapted row."""
        answers = row["answers"]
        return answers if isinstance(answers, list) else [answers]

    def facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What scoring needs to know of a row beside its answers."""
        return {}

    def judge(self, text: Any, targets: tuple[Any, ...], facts: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.spec
        said = text.lstrip("\n").split("\n")[0] if spec.get("first_line") else text
        return {"score": metrics.best(spec["metric"], said, targets, facts)}

    def score(self, results: list[dict[str, Any]], seed: int) -> dict[str, Score]:
        scores = [r["score"] for r in results]
        low, high, kind = interval(scores, seed)
        return {"score": Score(value=sum(scores) / len(scores), n=len(scores), low=low, high=high, interval=kind)}


def _filled(text: str, row: Mapping[str, Any]) -> str:
    """A part of a prompt with the row's values in its {}. Braces in the values stand as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: str(row[found[1]]), text)


@dataclass(frozen=True)
class LongBench(BenchmarkTask):
    """LongBench's 21 data sets: question answering, summaries, few-shot, synthetic, code (Bai et al. 2023)."""

    dataset: str = "qasper"

    name: ClassVar[str] = "longbench"
    version: ClassVar[int] = 1

    def facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": row["_id"], **({"classes": row["all_classes"]} if row.get("all_classes") else {})}


@dataclass(frozen=True)
class LongBench2(BenchmarkTask):
    """LongBench v2's questions with four choices, by the length of their texts (Bai et al. 2024)."""

    dataset: str = "all"

    name: ClassVar[str] = "longbench_v2"
    version: ClassVar[int] = 1

    def adapted(self, row: source.Row) -> source.Row:
        return row.plus({key: value.strip() for key, value in row.items() if isinstance(value, str)})

    def targets(self, row: Mapping[str, Any]) -> Sequence[Any]:
        return [row["answer"]]

    def facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": row["_id"], "difficulty": row["difficulty"], "length": row["length"]}


@dataclass(frozen=True)
class InfiniteBench(BenchmarkTask):
    """InfiniteBench's twelve data sets beyond 100,000 tokens: retrieval, books, dialogues, numbers, code (Zhang et al.
    2024).
    """

    dataset: str = "passkey"

    name: ClassVar[str] = "infinitebench"
    version: ClassVar[int] = 1

    def adapted(self, row: source.Row) -> source.Row:
        made: dict[str, Any] = {}
        if row.get("options"):
            made |= {f"OPTION_{letter}": option for letter, option in zip("ABCD", row["options"], strict=True)}
        if self.dataset == "code_run":
            call = re.findall(r"func_[0-9]+\(-?[0-9]+\)", row["input"])[0]
            made |= {"func_call": call, "func": call.partition("(")[0]}
        if self.dataset == "math_find":
            asked = re.findall(r"The .+ of", row["input"])[0].lower().removesuffix(" of")
            made["prefix"] = f"What is {asked} in the following list?"
        return row.plus(made)

    def targets(self, row: Mapping[str, Any]) -> Sequence[Any]:
        answer = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if self.dataset in ("longbook_choice_eng", "code_debug"):
            return [[answer[0], "ABCD"[row["options"].index(answer[0])]]]
        if self.dataset == "math_calc":
            return [answer[0] if isinstance(answer[0], list) else answer]
        # Of these the official code takes several right answers, of the others the first.
        return answer if self.dataset in ("longbook_qa_eng", "longbook_qa_chn") else answer[:1]

    def facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": row["id"]}


@dataclass(frozen=True)
class HelmetRecall(BenchmarkTask):
    """HELMET's recall: a JSON object of UUIDs, and three of RULER's needles at 131,072 tokens (Yen et al. 2024).

    shots   solved examples before the question of json_kv
    """

    dataset: str = "json_kv"
    shots: int = 2

    name: ClassVar[str] = "helmet_recall"
    version: ClassVar[int] = 1

    def adapted(self, row: source.Row) -> source.Row:
        solved = [f"Key: {key}\nCorresponding value: {value}" for key, value in row.get("demos", ())[: self.shots]]
        return row.plus({"demos": "".join(f"{example}\n\n" for example in solved)})

    def targets(self, row: Mapping[str, Any]) -> Sequence[Any]:
        answer = row["answer"] if "answer" in row else row["outputs"]
        return answer if isinstance(answer, list) else [answer]

    def judge(self, text: Any, targets: tuple[Any, ...], facts: Mapping[str, Any]) -> dict[str, Any]:
        if self.spec["metric"] != "named":
            return super().judge(text, targets, facts)
        # Of several values, the share that is named.
        return {"score": sum(metrics.named(text, target, facts) for target in targets) / len(targets)}
