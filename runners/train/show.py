"""`kvfrontier train`: plan, train what is missing, and print what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kvfrontier.runners.record import Record
from kvfrontier.runners.tables import show_table
from kvfrontier.runners.train.plan import Asked, Planned, plan, reread
from kvfrontier.runners.train.run import run

HELP = """\
Trains small models with a method each, and measures what they can then do and what their state holds.

  kvfrontier train task=mqar method=dense,window,gla method.window=16 train.steps=400
  kvfrontier train task=copying method=rmt,transformer_xl model=llama 'task.lengths=[2,4,16]'
  kvfrontier train -m +sweep=mqar_cpu --dry-run       which trainings, and which records exist
  kvfrontier train -m +sweep=mqar_cpu results=DIR     a second run does only what is missing
  kvfrontier train task=mqar method=dense model=tiny  any configuration of transformers, from random weights

KEY=VALUE as for kvfrontier run; several values with commas between them make as many trainings. Sweeps:
mqar_cpu (2 cores: 25 minutes), mqar_zoo (all that trains: 90 minutes), zoology (the published grid, for a GPU).
A training that was interrupted goes on from its checkpoint in RESULTS/checkpoints, as if it had not been.

  train     steps or epochs, batch, lr (a list is a grid), weight_decay, warmup, clip, stop, bptt, every, checkpoint,
            keep
  model     zoology, llama: layers, width, heads, convolutions, mlp, positions=none|rope|alibi
  task      {tasks}

Exit code: 0 all done, 1 a training failed, 2 bad usage.
"""


def command(words: Sequence[str]) -> int:
    """Serve `kvfrontier train WORDS`. Returns the exit code; raises UsageError."""
    if {"-h", "--help"} & set(words):
        from kvfrontier.runners.train.tasks import tasks

        print(HELP.format(tasks=", ".join(tasks())), end="")
        return 0
    flags = {"-m", "--multirun", "--json", "--dry-run"}
    planned = plan([word for word in words if word not in flags])
    as_json = "--json" in words
    if "--dry-run" in words:
        _show_plan(planned, as_json)
        return 0
    before = {a.id for one in planned for a in one.asked if a.record and a.record.status != "failed"}
    run(planned)
    after = reread(planned)
    _show(after, before, as_json)
    asked = [a for one in after for a in one.asked]
    return 1 if any(a.record is None or a.record.status == "failed" for a in asked) else 0


def _show_plan(planned: Sequence[Planned], as_json: bool) -> None:
    if as_json:
        rows = [
            {"id": a.id, "state": "to run" if one.to_run else "recorded", **a.cell.model_dump()}
            for one in planned
            for a in one.asked
        ]
        print(json.dumps({"trainings": sum(one.to_run for one in planned), "cells": rows}))
        return
    rows = [
        (
            one.label, _sizes(one), str(one.steps), " ".join(f"{lr:g}" for lr in one.settings.lr), str(len(one.asked)),
            "to run" if one.to_run else "recorded",
        )
        for one in planned
    ]  # fmt: skip
    show_table(
        f"{sum(one.to_run for one in planned)} trainings to run",
        ("method", "model", "steps", "lr", "tests", "state"), rows, numbers=("steps", "tests"),
    )  # fmt: skip


def _sizes(one: Planned) -> str:
    """The model, and those of the method's parameters that were chosen."""
    usual = {"name": one.method["name"], **_defaults(one.method["name"])}
    own = [f"{key}={value}" for key, value in one.method.items() if usual.get(key, value) != value]
    sizes = [f"{key}={one.config['model'][key]}" for key in ("width", "heads") if key in one.config["model"]]
    return ", ".join([one.config["model"]["name"], *sizes, *own])


def _defaults(name: str) -> dict[str, object]:
    from kvfrontier.methods import registry

    return registry.get(name).parameters


def _show(planned: Sequence[Planned], before: set[str], as_json: bool) -> None:
    found = [(one, a) for one in planned for a in one.asked]
    if as_json:
        rows = [
            {
                "id": a.id, "ran": a.id not in before, "method": one.method, "shape": a.shape,
                "status": a.record.status if a.record else "failed",
                "scores": {k: s.value for k, s in a.record.quality.scores.items()} if a.record else {},
                "chance": a.record.quality.chance if a.record else None,
                "state_bytes": state_bytes(a.record),
                "training": a.record.training.model_dump() if a.record and a.record.training else None,
            }
            for one, a in found
        ]  # fmt: skip
        print(json.dumps({"cells": rows}))
        return
    rows = [(one.label, _sizes(one), *_figures(one, a)) for one, a in found]
    columns = (
        "method",
        "model",
        "task",
        "score",
        "chance",
        "state",
        "lr",
        "steps",
        "seconds",
        "tokens",
        "flops",
        "status",
    )
    show_table(None, columns, rows, numbers=columns[3:-1])


def state_bytes(record: Record | None) -> float | None:
    """What the state of one text held when its last token had been scored, measured."""
    return record.quality.state.final_payload if record and record.quality.state else None


def _figures(one: Planned, a: Asked) -> tuple[str, ...]:
    shape = " ".join(f"{value} {key}" for key, value in a.shape.items() if key != "length")
    asked = f"{one.task.name} {a.shape['length']}" + (f", {shape}" if shape else "")
    record = a.record
    if record is None:
        return (asked, *[""] * 8, "no record: it died")
    quality, training = record.quality, record.training
    value, held = quality.scores.get(quality.primary), state_bytes(record)
    return (
        asked,
        f"{value.value:.3f}" if value else "",
        f"{quality.chance:.4f}" if quality.chance is not None else "",
        f"{held:,.0f} B" if held is not None else "",
        f"{training.lr:g}" if training else "",
        str(training.steps) if training else "",
        f"{training.seconds:.0f}" if training else "",
        f"{training.tokens:,}" if training else "",
        f"{training.flops:.2e}" if training else "",
        record.status if record.status == "ok" else f"{record.status}: {quality.reason or record.memory.reason}",
    )
