"""Tasks of lm-evaluation-harness, scored under any method (runners/harness); needs the extra `lm_eval`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from kvfrontier.runners import harness
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.intervals import interval
from kvfrontier.runners.record import Quality, Score
from kvfrontier.runners.tasks.task import OpenSession, Progress, Task, Tokenizer

if TYPE_CHECKING:
    from kvfrontier.methods import Method
    from kvfrontier.runners.models import LoadedModel


@dataclass(frozen=True)
class LmEval(Task):
    """names          tasks or groups of the harness, as hellaswag
    limit          at most so many documents of each; null: all
    fewshot        solved examples before each question; null: as the task says
    chat_template  the model's own chat template around the prompt, or none
    include_path   a folder with task files of your own

    `context` is what the harness calls max_length: longer prompts lose their beginning. The harness gives context and
    question as one text, so the method compresses both (compress_at=prompt). A budget is solved for each prompt's own
    length; bytes and times are those of `context`.
    """

    names: tuple[str, ...] = ()
    limit: int | None = None
    fewshot: int | None = None
    chat_template: bool = False
    include_path: str | None = None

    name: ClassVar[str] = "lm_eval"
    version: ClassVar[int] = 2
    primary: ClassVar[str] = "score"
    summary: ClassVar[str] = "tasks of lm-evaluation-harness: task.names=[hellaswag]; needs the extra lm_eval"
    size: ClassVar[tuple[str, ...]] = ("limit", "include_path")
    own_lengths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}: at least one document is needed")

    def prompt_tokens(self, context: int, tokenizer: Tokenizer | None = None) -> int:
        return context  # prompts are as long as they are; a share of state is that of the longest

    def check(self, loaded: LoadedModel, context: int, seed: int = 0) -> None:
        super().check(loaded, context, seed)
        if not self.names:
            raise UsageError("task.names is empty; name tasks of the harness, as task.names=[hellaswag]")
        harness.require()

    def rules(self) -> dict[str, Any]:
        rules = {
            "template": "the harness's",
            "metric": "the mean of each task's first metric that is a mean over documents, over all documents",
            "truncation": "the prompt is cut on the left",
            "stop": "as each task says",
            "compress_at": "prompt",
        }
        # Without a task there is nothing that a release of the harness could change.
        return rules | {"harness": harness.require(), "own_tasks": _digest(self.include_path)} if self.names else rules

    def run(
        self,
        open_session: OpenSession,
        open_dense: OpenSession,
        loaded: LoadedModel,
        context: int,
        seed: int,
        *,
        chunk: int | None = None,
        progress: Progress = lambda _: None,
        method: Callable[[int], Method] | None = None,
    ) -> Quality:
        """`method`: the method for a prompt of so many tokens; None: that of `open_session` for all."""
        self.check(loaded, context, seed)
        progress(f"{self.name} {', '.join(self.names)}")
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        from kvfrontier.runners.harness.model import KVFrontierLM

        if method is None:
            same = open_session().method
            method = lambda _: same  # noqa: E731
        with _quiet():
            model = KVFrontierLM(loaded, method, max_length=context, chunk=chunk, seed=seed)
            manager = TaskManager(include_path=self.include_path)
            if missing := [name for name in self.names if name not in manager.all_tasks]:
                raise UsageError(f"the harness has no task {missing[0]!r}; lm_eval ls tasks lists them")
            found = simple_evaluate(
                model,
                tasks=list(self.names),
                task_manager=manager,
                limit=self.limit,
                num_fewshot=self.fewshot,
                apply_chat_template=self.chat_template,
                fewshot_random_seed=seed,
                bootstrap_iters=0,
            )
        assert found is not None
        results, scores, chance = digest(found, seed)
        data = f"lm_eval-{harness.require()} {_identity(results)}"
        quality = self.quality(results, scores, model.states, tokenizer=loaded.tokenizer, seed=seed, data=data)
        return quality.model_copy(update={"chance": chance})


def digest(found: Mapping[str, Any], seed: int) -> tuple[list[dict[str, Any]], dict[str, Score], float | None]:
    """Of the harness's results: one result a document, with what the model said and `score`; all scores; and what
    guessing would score, None where that is not known of every document.

    Raises UsageError for a task without a metric that is a mean over documents: it cannot be compared in pairs.
    """
    results: list[dict[str, Any]] = []
    scores: dict[str, Score] = {}
    guesses: list[float | None] = []
    for task, documents in found["samples"].items():
        filters = list(dict.fromkeys(document["filter"] for document in documents))
        main = None
        for name in filters:
            own = [document for document in documents if document["filter"] == name]
            for metric in own[0]["metrics"]:
                aggregate = found["results"][task].get(f"{metric},{name}")
                if not isinstance(aggregate, (int, float)):
                    continue
                better = found["higher_is_better"][task].get(metric)
                values = [document[metric] for document in own]
                mean = _is_mean(values, aggregate)
                if mean and main is None and better is not False:
                    main = metric, name
                label = f"{task}.{metric}" if len(filters) == 1 else f"{task}.{metric}.{name}"
                low, high, kind = interval([float(v) for v in values], seed) if mean else (None, None, "none")
                scores[label] = Score(
                    value=float(aggregate),
                    n=len(own),
                    low=low,
                    high=high,
                    interval=kind,
                    higher_is_better=better is not False,
                )
        if main is None:
            raise UsageError(
                f"no metric of {task} is a mean over documents, so methods cannot be compared in pairs; name others"
            )
        own = [document for document in documents if document["filter"] == main[1]]
        results += [_result(task, document, main[0]) for document in own]
        asked_as = found["configs"].get(task, {}).get("output_type")
        guesses += [_guess(asked_as, document, main[0]) for document in own]
    values = [result["score"] for result in results]
    low, high, kind = interval(values, seed)
    score = Score(value=fmean(values), n=len(values), low=low, high=high, interval=kind)
    known = [guess for guess in guesses if guess is not None]
    return results, {"score": score} | scores, fmean(known) if len(known) == len(guesses) else None


def _guess(kind: str | None, document: Mapping[str, Any], metric: str) -> float | None:
    """What a guess at one document scores by a metric: one over its choices; next to nothing where the answer is free;
    None where neither holds."""
    if kind != "multiple_choice":
        return 0.0 if kind in ("generate_until", "loglikelihood") else None
    if metric not in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
        return None
    # For acc_mutual_info every choice is asked for a second time, without its context.
    return (2 if "acc_mutual_info" in document["metrics"] else 1) / len(document["arguments"])


def _is_mean(values: list[Any], aggregate: float) -> bool:
    """Whether an aggregate is the mean of numbers, one a document."""
    return all(isinstance(v, (bool, int, float)) for v in values) and abs(fmean(values) - aggregate) < 1e-9


def _result(task: str, document: Mapping[str, Any], metric: str) -> dict[str, Any]:
    said = json.loads(json.dumps(document["filtered_resps"], default=str))
    return {
        "task": task,
        "document": document["doc_id"],
        "hash": "-".join(document[key][:12] for key in ("doc_hash", "prompt_hash", "target_hash")),
        "target": str(document["target"]),
        "said": said,
        "score": float(document[metric]),
    }


def _identity(results: list[dict[str, Any]]) -> str:
    """Which documents, with which prompts and targets."""
    text = json.dumps([[result["task"], result["document"], result["hash"]] for result in results])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(folder: str | None) -> str | None:
    """What a folder of task files says. Raises UsageError where it is not there."""
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise UsageError(f"task.include_path={folder} is no folder; name the one that holds your task files")
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".yaml", ".yml", ".py"))
    text = b"\n".join(str(p.relative_to(folder)).encode() + b"\n" + p.read_bytes() for p in files)
    return hashlib.sha256(text).hexdigest()[:12]


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness says how it goes about its work, and warns of a model that was loaded before."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
