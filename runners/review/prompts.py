"""Exactly what a sample feeds to a model, and what came back under each method: `kvfrontier show-prompt`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kvfrontier.methods import registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import models, tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words
from kvfrontier.runners.progress import working
from kvfrontier.runners.record import Cell, canonical_json, load_records
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.answer import AnswerTask
from kvfrontier.runners.tasks.task import Prompt, States, sample_set
from kvfrontier.runners.tasks.tokens import tokenizer_hash


@dataclass(frozen=True)
class Asked:
    """One sample of a task, and the cells of the methods that are to answer it (one, of no concern, where none was
    named)."""

    task: tasks.Task
    cells: tuple[Cell, ...]
    model: dict[str, Any]
    sample: int
    methods_named: bool

    @property
    def cell(self) -> Cell:
        return self.cells[0]


@dataclass(frozen=True)
class Answered:
    """What came back: a record's sample, or a run's. `where`: the record's id and machine, or "run now"."""

    method: str
    where: str
    result: dict[str, Any]


def parse(asked: Sequence[str]) -> Asked:
    """What KEY=VALUE words ask for: those of `kvfrontier run`, and sample=0. Only methods and budgets may be several.
    Raises UsageError."""
    values = words.split(asked, {"sample": "0"})
    (sample, *more) = values.pop("sample")
    if more or not sample.isdecimal():
        raise UsageError(f"sample={','.join([sample, *more])} must be one whole number, from 0")
    for key, several in values.items():
        if len(several) > 1 and key.partition(".")[0] not in ("method", "budget"):
            raise UsageError(
                f"{key}={','.join(several)}: one prompt has one {key}; only method may have several values"
            )
    composed = [words.composer()([f"{k}={v}" for k, v in line.items()]) for line in words.product(values)]
    config = composed[0].config
    return Asked(
        task=tasks.make(config["task"]),
        cells=tuple(cells.describe(c.config) for c in composed),
        model=config["model"],
        sample=int(sample),
        methods_named="method" in values,
    )


def recorded(asked: Asked, tokenizer: Any, paths: Sequence[Path], prompt: Prompt) -> Iterator[Answered]:
    """What records hold of this sample, under the methods that were named or under all. A record of another number of
    samples counts where it has the same one: where depths go over the samples, it has not."""
    cell, task = asked.cell, asked.task
    wanted = {canonical_json(c.asked) for c in asked.cells} if asked.methods_named else None
    for record in load_records(*paths):
        quality, other = record.quality, record.cell
        same = (
            quality.status == "ok"
            and quality.task_hash == task.hash()
            and _source(task, cell.seed, tokenizer) in quality.sample_set
            and (other.model, other.context, other.seed) == (cell.model, cell.context, cell.seed)
            and asked.sample < len(quality.samples)
            and all(quality.samples[asked.sample].get(key) == fact for key, fact in prompt.facts.items())
        )
        if same and (wanted is None or canonical_json(other.asked) in wanted):
            where = f"record {record.id[:12]}, {other.dtype}, {record.environment.device_name}"
            yield Answered(record.info.label, where, dict(quality.samples[asked.sample]))


def _source(task: tasks.Task, seed: int, tokenizer: Any) -> str:
    """What a sample set says beside the number of samples; of a task that asks nothing, without its data."""
    data = task.data() if isinstance(task, AnswerTask) else ""
    return sample_set(0, seed, tokenizer_hash(tokenizer), data).partition(" ")[2]


@torch.no_grad()
def run(asked: Asked) -> Iterator[Answered]:
    """What the model answers now, under each method. Raises UsageError for a task that asks nothing."""
    task = asked.task
    if not isinstance(task, AnswerTask):
        raise UsageError(f"--run: task {task.name} asks for no answer; kvfrontier run scores it")
    if refused := next(filter(None, cells.check(asked.cells, asked.model)), None):
        raise UsageError(refused)
    loaded = cells.load(asked.cell, asked.model)
    sample = task.drawn(loaded.tokenizer, asked.cell.context, asked.cell.seed, asked.sample)
    with working("answering") as say:
        for cell in asked.cells:
            say(cells.method_label(cell))
            with Session(loaded.model, registry.build(cell.method)) as session:
                result = task.ask(session, sample, loaded.tokenizer, cell.protocol["chunk"], States())
            yield Answered(cells.method_label(cell), f"run now, {cell.dtype}, {loaded.device}", result)


def show(asked: Sequence[str], paths: Sequence[Path], *, run_now: bool, as_json: bool) -> None:
    """Print a sample's prompt and, where methods or records are named, what came back. Raises UsageError
    where there is no such prompt, and where a method was named and nothing of it is known."""
    parsed = parse(asked)
    task, cell = parsed.task, parsed.cell
    tokenizer = models.tokenizer(parsed.model)
    prompt = task.prompt(tokenizer, cell.context, cell.seed, parsed.sample)
    found: list[Answered] = []
    if run_now:
        found = list(run(parsed))
    elif paths or parsed.methods_named:
        found = list(recorded(parsed, tokenizer, paths or [Path("results")], prompt))
        if not found:
            raise UsageError(
                f"no record in {', '.join(map(str, paths)) or 'results'} answers this sample under these methods; add "
                "--run to have it answered now, or name other records with --records"
            )
    told = _as_json(parsed, prompt, tokenizer, found)
    print(json.dumps(told) if as_json else "\n".join(_lines(told)))


def texts(tokenizer: Any, pieces: Sequence[list[int]]) -> list[str]:
    """The text of each piece within the whole, special tokens included: joined, they are the text of all ids."""
    made: list[str] = []
    ids: list[int] = []
    for piece in pieces:
        ids = ids + piece
        before = "".join(made)
        whole = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # A character may end beyond its piece; the piece is then decoded by itself.
        alone = not whole.startswith(before)
        made.append(tokenizer.decode(piece, skip_special_tokens=False) if alone else whole[len(before) :])
    return made


def _as_json(asked: Asked, prompt: Prompt, tokenizer: Any, found: Sequence[Answered]) -> dict[str, Any]:
    task, cell = asked.task, asked.cell
    shown = texts(tokenizer, list(prompt.pieces.values()))
    return {
        "task": task.name,
        "version": task.version,
        "hash": task.hash(),
        "model": cell.model,
        "tokenizer": tokenizer_hash(tokenizer),
        "context": cell.context,
        "seed": cell.seed,
        "sample": asked.sample,
        "compress_at": task.rules()["compress_at"],
        "pieces": [
            {"name": name, "tokens": len(ids), "text": text, "ids": ids}
            for (name, ids), text in zip(prompt.pieces.items(), shown, strict=True)
        ],
        "tokens": sum(map(len, prompt.pieces.values())),
        "new_tokens": prompt.new_tokens,
        "facts": prompt.facts,
        "answers": [{"method": a.method, "where": a.where, **_result(a, prompt)} for a in found],
    }


def _result(found: Answered, prompt: Prompt) -> dict[str, Any]:
    """A sample's result without what the prompt says already, and without its parts."""
    known = {*prompt.facts, "prompt_tokens", "question_tokens", "scored_tokens", "block_tokens", "blocks"}
    return {key: value for key, value in found.result.items() if key not in known}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    """For a person: the pieces under headings that no prompt contains by chance, everything else as JSON."""
    yield (
        f"{told['task']} version {told['version']} (hash {told['hash']}), {told['model']}, context {told['context']}, "
        f"seed {told['seed']}, sample {told['sample']}, compress_at={told['compress_at']}"
    )
    counts = " + ".join(f"{piece['tokens']} {piece['name']}" for piece in told["pieces"])
    yield f"{counts} = {told['tokens']} tokens; {told['new_tokens']} may be generated"
    for piece in told["pieces"]:
        yield f"=== {piece['name']}: {piece['tokens']} tokens ==="
        yield piece["text"]
    yield "=== end ==="
    for key, value in told["facts"].items():
        yield f"{key}: {json.dumps(value, ensure_ascii=False)}"
    for found in told["answers"]:
        yield f"--- {found['method']} ({found['where']})"
        for key, value in found.items():
            if key not in ("method", "where"):
                yield f"{key}: {json.dumps(value, ensure_ascii=False)}"
