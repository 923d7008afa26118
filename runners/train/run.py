"""Running trainings: train what is missing, ask what was trained, and append a record for each test at once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvfrontier.methods import registry
from kvfrontier.runners import environment, progress
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.record import (
    Memory,
    MethodInfo,
    Quality,
    Record,
    Time,
    Training,
    append,
    check_writable,
    content_hash,
)
from kvfrontier.runners.tracker import track
from kvfrontier.runners.train.begin import beginning
from kvfrontier.runners.train.build import method_of
from kvfrontier.runners.train.exam import Exam
from kvfrontier.runners.train.plan import Asked, Planned
from kvfrontier.runners.train.search import Trained, search
from kvfrontier.runners.train.trainer import Now

#: Sees the name of a curve and a point of it.
Show = Callable[[str, Mapping[str, float]], None]


def run(planned: Sequence[Planned]) -> None:
    """Run the trainings that have no record yet, one after the other.

    Raises UsageError, before any work where there is one training alone, for a method that cannot be trained or cannot
    serve the model; among others that is a result, and recorded.
    """
    todo = [one for one in planned if one.to_run]
    for one in todo:
        check_writable(one.config["results"])
    total = sum(one.steps * len(one.settings.lr) for one in todo)
    with progress.cells(total):
        for one in todo:
            _run(one, alone=len(planned) == 1)


def _run(one: Planned, alone: bool) -> None:
    results = Path(one.config["results"])
    stem = f"{_plain(one.config['model']['name'])}-{_plain(one.label)}-{one.identity[:8]}"
    checkpoints = results / "checkpoints"
    shared = {"method": one.method, "model": one.config["model"], "task": one.task.name}
    with track(one.config["tracker"], name=stem, config=shared, folder=results) as tracker:
        show: Show = tracker.curve
        try:
            found = _train(one, checkpoints, stem, show)
        except UsageError as error:
            if alone:
                raise
            found = Quality(status="infeasible", reason=str(error))
        for asked in one.asked:
            record = _record(one, asked, *_asked(one, asked, found))
            append(results / f"{stem}.jsonl", record)
            tracker.log(record)
    if not one.settings.keep:
        for left in checkpoints.glob(f"{stem}-lr*.pt"):
            left.unlink()
        with suppress(OSError):
            checkpoints.rmdir()


def _train(one: Planned, checkpoints: Path, stem: str, show: Show) -> Trained | Quality:
    """The best model; or, where training failed, a quality block that says why."""
    config, bar = one.config, progress.cell_bar()
    method = method_of(one.method, config["model"])
    done = 0

    make, reference = beginning(one, checkpoints)

    def say(now: Now) -> None:
        nonlocal done
        if bar:
            known = "" if now.score is None else f" {one.task.metric} {now.score:.3f}"
            bar.say(f"{one.label} lr {now.lr:g} step {now.step}/{now.steps} loss {now.loss:.3f}{known}")
            bar.advance(1)
        done += 1

    found: list[Trained] = []

    def act() -> Quality:
        found.append(
            search(
                make, method, one.task, one.settings, config["seed"],
                file=lambda lr: checkpoints / f"{stem}-lr{lr:g}.pt", identity=one.identity, say=say,
                curve=show, reference=reference,
            )
        )  # fmt: skip
        return Quality(status="ok")

    failed = guarded(Quality, act)
    if bar:
        bar.advance(one.steps * len(one.settings.lr) - done)
    return found[0] if found else failed


def _asked(one: Planned, asked: Asked, found: Trained | Quality) -> tuple[Quality, Memory, Time, Training | None]:
    if isinstance(found, Quality):
        ended: dict[str, Any] = {"status": found.status, "reason": found.reason, "failure": found.failure}
        return found, Memory(**ended), Time(**ended), None
    trainer = found.trainer
    exam = Exam(trainer.model, trainer.method, trainer.parts, one.task, one.config["seed"])
    memory, time = exam.cost(asked.shape, one.config["meter"])
    return exam.quality(asked.shape), memory, time, found.training


def _record(
    one: Planned, asked: Asked, quality: Quality, memory: Memory, time: Time, training: Training | None
) -> Record:
    cell, entry = asked.cell, registry.get(one.method["name"])
    built = registry.build(one.method)
    flags = {name: getattr(built, name) for name in ("needs_training", "simulated", "bounded", "query_sensitive")}
    facts = {"parameters": training.parameters} if training else {}
    return Record(
        id=asked.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cell=cell,
        info=MethodInfo(family=entry.family, label=one.label, tags=entry.tags, paper=entry.paper, **flags),
        method_hash=registry.source_hash(cell.method),
        protocol_hash=content_hash(cell.protocol),
        environment=environment.describe(cell.device),
        config={key: value for key, value in one.config.items() if key != "runs"},
        model_info={"revision": one.identity[:16], "license": "none: trained here", **facts},
        quality=quality,
        memory=memory,
        time=time,
        training=training,
        command=shlex.join(["kvfrontier", "train", *one.overrides]),
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")[-60:]
