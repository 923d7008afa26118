"""One training: a model, a method, a task, one learning rate and one seed.

Everything that is random is a function of the seed and the step, so a run that goes on from a checkpoint is the run
that was never interrupted, to the bit where the device computes the same twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kvfrontier.methods.contract import Method
from kvfrontier.runners.record import content_hash
from kvfrontier.runners.train import checkpoint
from kvfrontier.runners.train.session import TrainedSession, asked_logits, make_parts
from kvfrontier.runners.train.settings import Settings
from kvfrontier.runners.train.tasks import IGNORED, Batch, TrainedTask
from kvfrontier.runners.train.tasks.task import seeded

#: Texts of one forward of an evaluation.
EVALUATED = 128


@dataclass(frozen=True)
class Now:
    """Where a training stands: what progress bars and curves show."""

    step: int
    steps: int
    lr: float
    loss: float
    score: float | None = None


Say = Callable[[Now], None]


@dataclass
class Outcome:
    """What a training came to. score: on validation texts, more is better; curve: a point an evaluation."""

    lr: float
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: int = 0
    loss: float = math.inf
    score: float = -math.inf
    solved: bool = False
    finished: bool = False
    diverged: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains `model` with `method`.

    model      of transformers, its parameters to be trained, in eval mode (no dropout)
    parts      the method's learnable parts, trained with it
    file       where checkpoints go, or None for none
    identity   what the training is, to know its checkpoint again
    from_weights   the model has been trained before: what it scores with the method as it is comes first in the curve
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        task: TrainedTask,
        settings: Settings,
        lr: float,
        seed: int,
        *,
        file: Path | None = None,
        identity: str = "",
        from_weights: bool = False,
    ) -> None:
        self.model, self.method, self.task, self.settings, self.seed = model, method, task, settings, seed
        self.parts = make_parts(model, method, seed)
        self.outcome = Outcome(lr)
        self._file, self._identity = file, content_hash([identity, lr, seed])
        self._measure_first = from_weights
        self._flops: dict[str, int] = {}
        self._optimizer = torch.optim.AdamW(self._groups(), lr=lr)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, tied weights once."""
        trained = nn.ModuleList([self.model, self.parts])
        return [p for p in trained.parameters() if p.requires_grad]

    def _groups(self) -> list[dict[str, Any]]:
        """Weight decay is for matrices: norms, biases, gates' logits and decays keep their size."""
        named = [*self.model.named_parameters(), *self.parts.named_parameters()]
        trained = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in trained if name.endswith("weight") and p.ndim >= 2]
        others = [p for name, p in trained if not (name.endswith("weight") and p.ndim >= 2)]
        decay = self.settings.weight_decay
        return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]

    # -------------------------------------------------------------------------------- data

    def _drawn(self, split: str, index: int, shape: Mapping[str, int], n: int) -> Batch:
        return self.task.draw(shape, n, seeded(self.seed, split, index), "train" if split == "train" else "valid")

    def _plan(self, epoch: int, stages: list[Batch]) -> Iterator[Batch]:
        """The batches of an epoch, each of one shape, all shapes mixed."""
        generator = seeded(self.seed, "order", epoch)
        pieces = [
            (stage, rows)
            for stage in stages
            for rows in torch.randperm(len(stage.ids), generator=generator).split(self.settings.batch)
        ]
        for i in torch.randperm(len(pieces), generator=generator).tolist():
            stage, rows = pieces[i]
            yield Batch(stage.ids[rows], stage.labels[rows], stage.prompt)

    # -------------------------------------------------------------------------------- running

    def run(self, say: Say = lambda _: None, until: int | None = None) -> Outcome:
        """Train to the end, or to step `until`, from where a checkpoint stands. Raises UsageError for a checkpoint that
        cannot be read."""
        self._resume()
        settings, out = self.settings, self.outcome
        stages = [
            self._drawn("train", i, {k: v for k, v in shape.items() if k != "examples"}, shape["examples"])
            for i, shape in enumerate(self.task.train)
        ]
        valid = self._valid()
        per_epoch = sum(-(-len(stage.ids) // settings.batch) for stage in stages)
        steps = settings.steps or settings.epochs * per_epoch
        every = settings.every or per_epoch
        saved = time.perf_counter()
        with TrainedSession(self.model, self.method, self.parts, grad=True) as session:
            if self._measure_first and not out.curve:
                self._evaluate(session, valid)
                out.solved = False
            while out.steps < min(steps, until or steps) and not (out.finished or out.diverged):
                epoch, offset = divmod(out.steps, per_epoch)
                for i, batch in enumerate(self._plan(epoch, stages)):
                    if i < offset:
                        continue
                    self._step(session, batch, steps)
                    if not math.isfinite(out.loss):
                        out.diverged = True
                    elif out.steps % every == 0 or out.steps == steps:
                        self._evaluate(session, valid)
                    say(Now(out.steps, steps, out.lr, out.loss, out.score if out.curve else None))
                    out.finished = out.solved or out.steps >= steps
                    if time.perf_counter() - saved > settings.checkpoint:
                        self.save()
                        saved = time.perf_counter()
                    if out.finished or out.diverged or out.steps >= (until or steps):
                        break
        self.save()
        return out

    def _step(self, session: TrainedSession, batch: Batch, steps: int) -> None:
        out, device = self.outcome, self.model.device
        begun = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = out.lr * self.settings.schedule(out.steps / steps)
        self._optimizer.zero_grad(set_to_none=True)
        key = "x".join(map(str, batch.ids.shape))
        # Of one step of each shape, forward and backward; elementwise work is not counted.
        counter = FlopCounterMode(display=False) if key not in self._flops else None
        with counter or nullcontext():
            out.loss = self._backward(session, batch.ids.to(device), batch.labels.to(device), batch.prompt)
        if counter is not None:
            self._flops[key] = int(counter.get_total_flops())
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self._optimizer.step()
        out.steps += 1
        out.tokens += batch.ids.numel()
        out.flops += self._flops[key]
        out.seconds += time.perf_counter() - begun

    def _backward(self, session: TrainedSession, ids: Tensor, labels: Tensor, prompt: int) -> float:
        """Mean loss over what is asked. With `bptt`, the text is read in pieces of so many tokens, and no gradient goes
        from one to the one before; without, it goes through all that the state carries."""
        session.reset()
        asked, total = (labels != IGNORED).sum(), 0.0
        piece = self.settings.bptt or ids.shape[1]
        for a in range(0, ids.shape[1], piece):
            if a:
                session.detach()
            x, y = ids[:, a : a + piece], labels[:, a : a + piece]
            logits, wanted = asked_logits(session, self.model, x, y, prompt - a)
            if len(wanted):
                loss = F.cross_entropy(logits.float(), wanted, reduction="sum") / asked
                loss.backward()
                total += float(loss.detach())
        session.reset()
        return total

    def validated(self) -> float:
        """Loss on validation texts as the model is now; nothing of the training changes."""
        kept, self.outcome = self.outcome, Outcome(self.outcome.lr)
        with TrainedSession(self.model, self.method, self.parts, grad=True) as session:
            self._evaluate(session, self._valid())
        found, self.outcome = self.outcome, kept
        return found.curve[-1]["valid_loss"]

    def _valid(self) -> list[Batch]:
        return [self._drawn("valid", i, shape, self.settings.valid) for i, shape in enumerate(self.task.test)]

    def _evaluate(self, session: TrainedSession, valid: list[Batch]) -> None:
        """A point of the curve. A score is the share of right answers, or less the loss where text is modelled."""
        out, begun = self.outcome, time.perf_counter()
        session.grad = False
        right = n = 0
        nll = 0.0
        with torch.no_grad():
            for batch in valid:
                for ids, labels in zip(batch.ids.split(EVALUATED), batch.labels.split(EVALUATED), strict=True):
                    session.reset()
                    device = self.model.device
                    logits, wanted = asked_logits(session, self.model, ids.to(device), labels.to(device), batch.prompt)
                    right += int((logits.argmax(-1) == wanted).sum())
                    nll += float(F.cross_entropy(logits.float(), wanted, reduction="sum"))
                    n += len(wanted)
        session.reset()
        session.grad = True
        out.score = right / n if self.task.metric == "accuracy" else -nll / n
        stop = self.settings.stop
        out.solved = stop is not None and self.task.metric == "accuracy" and out.score >= stop
        out.curve.append(
            {"step": out.steps, "loss": out.loss if out.steps else nll / n, "valid_loss": nll / n, "score": out.score}
        )
        out.seconds += time.perf_counter() - begun

    # -------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        if self._file is not None:
            held = {"outcome": vars(self.outcome), "flops": self._flops}
            held |= {name: part.state_dict() for name, part in self._stateful.items()}
            checkpoint.write(self._file, self._identity, held)

    def _resume(self) -> None:
        held = checkpoint.read(self._file, self._identity, self.model.device) if self._file is not None else None
        if held is not None:
            for name, part in self._stateful.items():
                part.load_state_dict(held[name])
            self._flops, self.outcome = held["flops"], Outcome(**held["outcome"])

    @property
    def _stateful(self) -> dict[str, Any]:
        return {"model": self.model, "parts": self.parts, "optimizer": self._optimizer}
