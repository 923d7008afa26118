"""What a trained model scores on texts that it has not seen, and what its state holds meanwhile.

The text is read as an inference reads it: the prompt, `seal`, then the rest. So a method that compresses at the end of
a prompt does so here, and the state is the one that gave the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.contract import Method
from kvfrontier.runners import meter
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.intervals import bootstrap
from kvfrontier.runners.record import Memory, Quality, Score, Time
from kvfrontier.runners.tasks.task import States
from kvfrontier.runners.train.session import TrainedSession
from kvfrontier.runners.train.tasks import IGNORED, Batch, TrainedTask
from kvfrontier.runners.train.tasks.task import seeded
from kvfrontier.runners.train.trainer import EVALUATED


class Exam:
    """A trained model with its method and learnable parts, ready to be asked."""

    def __init__(self, model: Any, method: Method, parts: torch.nn.ModuleDict, task: TrainedTask, seed: int) -> None:
        self._model, self._method, self._parts, self._task, self._seed = model, method, parts, task, seed

    def open(self) -> TrainedSession:
        """A session without a text."""
        return TrainedSession(self._model, self._method, self._parts)

    def _texts(self, shape: Mapping[str, int]) -> Batch:
        return self._task.draw(shape, self._task.examples, seeded(self._seed, "test", dict(shape)), "test")

    def quality(self, shape: Mapping[str, int]) -> Quality:
        """Scores over the task's test texts of a shape."""
        return guarded(Quality, lambda: self._quality(shape))

    def _quality(self, shape: Mapping[str, int]) -> Quality:
        texts, states = self._texts(shape), States()
        right, losses = [], []
        with self.open() as session:
            for ids in texts.ids.split(EVALUATED):
                session.reset()
                logits, labels = self._answers(session, ids, texts.prompt), texts.labels[len(right) :][: len(ids)]
                # What predicts token t + 1 stands at place t; before the prompt's last place nothing is asked.
                wanted = labels[:, texts.prompt - 1 : -1].to(logits.device)
                flat = F.cross_entropy(
                    logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
                ).view_as(wanted)
                right += list((logits.argmax(-1) == wanted).cpu())
                losses += list(flat.cpu())
            # Of one row alone, what the state holds.
            session.reset()
            one = texts.ids[:1].to(self._model.device)
            session.prefill(one[:, : texts.prompt])
            states.sealed(session)
            for _ in session.forced(one[:, texts.prompt :]):
                pass
            states.scored(session)
        asked = texts.labels[:, texts.prompt - 1 : -1] != IGNORED
        kinds = {name: value[:, texts.prompt - 1 : -1] for name, value in texts.kinds.items()}
        scores, samples = score(self._task.metric, torch.stack(right), torch.stack(losses), asked, kinds)
        if near := self._task.near_tokens:
            scores["benefit"] = self._benefit(texts, torch.stack(losses), near)
        return Quality(
            status="ok",
            repetitions=1,
            task=self._task.name,
            task_version=self._task.version,
            task_hash=self._task.hash(shape),
            sample_set=f"n={len(texts.ids)} seed={self._seed} task={self._task.name}",
            primary=self._task.metric,
            scores=scores,
            samples=tuple(samples),
            state=states.mean(),
            chance=self._task.chance(shape),
        )

    def _benefit(self, texts: Batch, losses: Tensor, near: int) -> Score:
        """Loss of the last `near` tokens when only `near` stand before them, less the loss after all that does."""
        short = []
        with self.open() as session:
            for ids in texts.ids[:, -2 * near :].split(EVALUATED):
                session.reset()
                logits = self._answers(session, ids, near)
                wanted = ids[:, near:].to(logits.device)
                found = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
                short += found.mean(1).tolist()
        gained = [a - b for a, b in zip(short, losses[:, -near:].mean(1).tolist(), strict=True)]
        return _interval(gained, float, "nats")

    def _answers(self, session: TrainedSession, ids: Tensor, prompt: int) -> Tensor:
        """Float32 logits [n, T - prompt, V] that predict each token behind the prompt."""
        ids = ids.to(self._model.device)
        session.prefill(ids[:, :prompt])
        return torch.cat(list(session.forced(ids[:, prompt:])), 1)

    def cost(self, shape: Mapping[str, int], protocol: Mapping[str, Any]) -> tuple[Memory, Time]:
        """Bytes and seconds of one text: all but its last tokens are read, and those decoded one by one."""
        ids = self._task.draw(shape, 1, seeded(self._seed, "cost", 0), "test").ids.to(self._model.device)
        new = min(protocol["decode_tokens"], ids.shape[1] // 2)
        passes: dict[str, Any] = {"chunk": None, "weights": self._model}
        read, decoded = ids[:, :-new], ids[:, -new:]
        memory = guarded(Memory, lambda: meter.measure_memory(self.open, read, decoded, **passes))
        counts = {"repetitions": protocol["repetitions"], "warmups": protocol["warmups"]}
        if not protocol["repetitions"]:
            return memory, Time(status="skipped", reason="meter.repetitions=0")
        return memory, guarded(Time, lambda: meter.measure_time(self.open, read, decoded, **passes, **counts))


def score(
    metric: str, right: Tensor, losses: Tensor, asked: Tensor, kinds: Mapping[str, Tensor]
) -> tuple[dict[str, Score], list[dict[str, Any]]]:
    """Scores, the metric's own first, and one result a text. All tensors [n, T]; accuracy is the share of right answers
    over all questions, with a bootstrap over texts; perplexity is of what is asked."""
    counts = asked.sum(1)
    if metric == "accuracy":
        per_text = ((right & asked).sum(1) / counts).tolist()
        found = {"accuracy": _interval(per_text, float, "share")}
        samples = [{"correct": round(value, 6)} for value in per_text]
    else:
        per_text = ((losses * asked).sum(1) / counts).tolist()
        found = {
            "perplexity": _interval(per_text, math.exp, "", higher=False),
            "nll": _interval(per_text, float, "nats", higher=False),
        }
        samples = [{"nll": round(value, 6)} for value in per_text]
    for name, values in kinds.items():
        for low, high in octaves(int(values[asked].max())):
            within = asked & (values >= low) & (values <= high)
            if n := int(within.sum()):
                value = float(right[within].float().mean() if metric == "accuracy" else losses[within].mean())
                key = f"{metric if metric == 'accuracy' else 'nll'}_at_{name}_{low}_{high}"
                found[key] = Score(value=value, n=n, higher_is_better=metric == "accuracy")
    return found, samples


def octaves(most: int) -> Iterable[tuple[int, int]]:
    """(0, 0), (1, 1), (2, 3), (4, 7), ... up to `most`."""
    yield 0, 0
    low = 1
    while low <= most:
        yield low, 2 * low - 1
        low *= 2


def _interval(values: list[float], transform: Callable[[float], float], unit: str, higher: bool = True) -> Score:
    low, high = bootstrap(values, transform)
    return Score(
        value=transform(sum(values) / len(values)),
        n=len(values),
        low=low,
        high=high,
        interval="bootstrap",
        higher_is_better=higher,
        unit=unit,
    )
