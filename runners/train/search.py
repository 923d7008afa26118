"""Learning rates, each trained to its end, until one solves the task: the best on validation texts is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvfrontier.methods.contract import Method
from kvfrontier.runners.record import Training, Trial
from kvfrontier.runners.train.settings import Settings
from kvfrontier.runners.train.tasks import TrainedTask
from kvfrontier.runners.train.trainer import Now, Outcome, Say, Trainer


@dataclass(frozen=True)
class Trained:
    """The best model of a search, with its method's parts, and what the record says of its training."""

    trainer: Trainer
    training: Training


def search(
    make: Callable[[], Any],
    method: Method,
    task: TrainedTask,
    settings: Settings,
    seed: int,
    *,
    file: Callable[[float], Path] | None = None,
    identity: str = "",
    say: Say = lambda _: None,
    curve: Callable[[str, Mapping[str, float]], None] = lambda *_: None,
    reference: float | None = None,
) -> Trained:
    """Train with each learning rate. `make` gives the model as it begins; `file` says where a rate's checkpoint is;
    `curve` sees the name of each curve and every point of it; `reference` is given for a model that was
    trained before: its loss with dense attention. Raises UsageError for a method that cannot serve the model."""
    best: Trainer | None = None
    tried: list[Trial] = []
    for lr in settings.lr:
        trainer = Trainer(
            make(),
            method,
            task,
            settings,
            lr,
            seed,
            file=file and file(lr),
            identity=identity,
            from_weights=reference is not None,
        )
        shown = 0

        def follow(now: Now, trainer: Trainer = trainer, name: str = f"lr_{lr:g}") -> None:
            nonlocal shown
            for point in trainer.outcome.curve[shown:]:
                curve(name, point)
            shown = len(trainer.outcome.curve)
            say(now)

        out = trainer.run(follow)
        tried.append(
            Trial(
                lr=lr, score=out.score if out.curve else 0.0, steps=out.steps, tokens=out.tokens, seconds=out.seconds,
                diverged=out.diverged,
            )
        )  # fmt: skip
        if best is None or (out.score, not out.diverged) > (best.outcome.score, not best.outcome.diverged):
            best = trainer
        if out.solved:  # no other rate can do better
            break
    assert best is not None
    return Trained(best, _described(best, best.outcome, tried, reference))


def _described(trainer: Trainer, out: Outcome, tried: Sequence[Trial], reference: float | None) -> Training:
    own = sum(p.numel() for p in trainer.parts.parameters())
    return Training(
        lr=out.lr,
        steps=out.steps,
        tokens=out.tokens,
        seconds=out.seconds,
        flops=out.flops,
        stopped="solved" if out.solved else "schedule",
        parameters=sum(p.numel() for p in trainer.parameters),
        method_parameters=own,
        reference=reference,
        curve=tuple(out.curve),
        tried=tuple(tried),
    )
