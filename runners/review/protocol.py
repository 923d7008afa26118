"""What decides whether two scores may be put together, and in words why two may not: `kvfrontier protocol`.

Three questions, each stricter in its own way. One column needs one task hash. Sample by sample (ranks, differences)
needs the same samples at the same context too. Bytes and seconds side by side need one machine, measured in one way.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kvfrontier.analysis.rows import Setting
from kvfrontier.runners import cell as cells
from kvfrontier.runners import models, tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words
from kvfrontier.runners.record import Cell, Record, canonical_json, load_records
from kvfrontier.runners.tables import show_table
from kvfrontier.runners.tasks import registry
from kvfrontier.runners.tasks.answer import AnswerTask
from kvfrontier.runners.tasks.task import sample_set
from kvfrontier.runners.tasks.tokens import tokenizer_hash


@dataclass(frozen=True)
class Scored:
    """How scores came about, or would come about.

    where       the words or files that say so
    task        name, version and parameters
    task_hash   of what follows: parameters but for the number of samples, and rules
    rules       template, metric, truncation, stop rule, compress_at; None where these are not the rules that this
                kvfrontier has for the version
    samples     n, seed, tokenizer, data revision: the sample set
    setting     model and protocol; of a record the machine and its software too
    moved       whether answers of one version were scored by another
    """

    where: str
    task: Mapping[str, Any]
    task_hash: str
    rules: Mapping[str, Any] | None
    samples: Mapping[str, str]
    context: int
    setting: Mapping[str, Any]
    moved: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters that are part of the hash."""
        known = registry.tasks().get(self.task["name"])
        size = known.size if known else ()
        return {k: v for k, v in self.task.items() if k not in ("name", "version", *size)}


#: What may be asked of two scores, and what is needed for it.
QUESTIONS = ("one column", "sample by sample", "bytes and seconds side by side")


def of_record(record: Record, where: str) -> Scored:
    """How the scores of a record came about."""
    quality, cell = record.quality, record.cell
    task = _made(cell)
    setting = {key: value for key, value in asdict(Setting.of(record)).items() if key != "protocol"}
    return Scored(
        where=where,
        task={**cell.task, "version": quality.task_version},
        task_hash=quality.task_hash,
        rules=task.rules() if task and task.hash() == quality.task_hash else None,
        samples=_parts(quality.sample_set),
        context=cell.context,
        setting=setting | {f"protocol.{k}": v for k, v in cell.protocol.items()},
        moved=record.moved,
    )


def of_cell(cell: Cell, model: Mapping[str, Any], where: str) -> Scored:
    """How the scores of a cell would come about here. What its samples are is known of tasks that draw them
    themselves."""
    task = tasks.make({k: v for k, v in cell.task.items() if k != "version"})
    samples = {"seed": str(cell.seed)}
    if isinstance(task, AnswerTask):
        samples = _parts(sample_set(task.samples, cell.seed, tokenizer_hash(models.tokenizer(model)), task.data()))
    setting = {"model": cell.model, "dtype": cell.dtype, "batch": cell.batch}
    return Scored(
        where=where,
        task=cell.task,
        task_hash=task.hash(),
        rules=task.rules(),
        samples=samples,
        context=cell.context,
        setting=setting | {f"protocol.{k}": v for k, v in cell.protocol.items()},
    )


def read(asked: str | Sequence[str]) -> list[Scored]:
    """What records (a file, a folder) or words (task=needle context=512) say, each way once. Raises UsageError."""
    parts = shlex.split(asked) if isinstance(asked, str) else list(asked)
    where = " ".join(parts)
    if all("=" in part and not Path(part).exists() for part in parts):
        composed = [
            words.composer()([f"{key}={value}" for key, value in line.items()])
            for line in words.product(words.split(parts, {}))
        ]
        found = [of_cell(cells.describe(c.config), c.config["model"], where) for c in composed]
    else:
        records = [r for r in load_records(*map(Path, parts)) if r.quality.task_hash]
        found = [of_record(record, where) for record in records]
        if not found:
            raise UsageError(f"no record in {where} has a score; name others, or words as task=needle context=512")
    return list({canonical_json(asdict(one)): one for one in found}.values())


def differences(a: Scored, b: Scored) -> dict[str, list[str]]:
    """For each of QUESTIONS, in words what forbids it; nothing where it may be done."""
    column = [f"{side.where}: answers of one version of the task, scored by another" for side in (a, b) if side.moved]
    if a.task_hash != b.task_hash:
        column += _of_task(a, b) or [
            f"task hash: {a.task_hash}, {b.task_hash}; not both are by rules that this kvfrontier knows"
        ]
    context = [] if a.context == b.context else [f"context: {a.context}, {b.context}"]
    return dict(
        zip(
            QUESTIONS,
            (
                column,
                [*column, *_unlike("sample set ", a.samples, b.samples), *context],
                _unlike("", a.setting, b.setting),
            ),
            strict=True,
        )
    )


def unknown(a: Scored, b: Scored) -> dict[str, list[str]]:
    """For each of QUESTIONS, what one of the two does not say, as words say nothing of a machine: what nobody knows
    forbids nothing, and allows nothing."""
    setting = [field.name for field in fields(Setting) if field.name != "protocol"]
    samples = ("n", "seed", "tokenizer", "data")
    return dict(
        zip(
            QUESTIONS,
            (
                [],
                [f"sample set {key}" for key in samples if not (key in a.samples and key in b.samples)],
                [key for key in setting if not (key in a.setting and key in b.setting)],
            ),
            strict=True,
        )
    )


def _of_task(a: Scored, b: Scored) -> list[str]:
    if a.task["name"] != b.task["name"]:
        return [f"task: {a.task['name']}, {b.task['name']}"]
    found = [] if a.task["version"] == b.task["version"] else [f"version: {a.task['version']}, {b.task['version']}"]
    found += _unlike("task.", a.settings, b.settings)
    if a.rules is not None and b.rules is not None:
        # What a parameter decides, as compress_at, may be a rule as well.
        found += [line for line in _unlike("", a.rules, b.rules) if f"task.{line}" not in found]
    return found


def _unlike(prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """`key: this, that` of every leaf that both have, each another."""
    found = []
    for key in (key for key in a if key in b and a[key] != b[key]):
        ours, theirs = a[key], b[key]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += _unlike(f"{prefix}{key}.", ours, theirs)
            missing = sorted(set(ours) ^ set(theirs))
            found += [f"{prefix}{key}.{one}: only one of the two has it" for one in missing]
        else:
            found.append(f"{prefix}{key}: {_text(ours)}, {_text(theirs)}")
    return found


def pairs(ours: Sequence[Scored], theirs: Sequence[Scored]) -> Iterator[tuple[Scored, Scored]]:
    """Each of ours beside those of theirs that it is nearest to: of one hash at one context, of one task at one
    context, of one task. Where no task is on both sides, all are compared."""
    keys: tuple[Callable[[Scored], Any], ...] = (
        lambda s: (s.task_hash, s.context),
        lambda s: (s.task["name"], s.context),
        lambda s: s.task["name"],
    )
    found = False
    for a in ours:
        near = next(
            ([b for b in theirs if key(b) == key(a)] for key in keys if any(key(b) == key(a) for b in theirs)), []
        )
        for b in near:
            found = True
            yield a, b
    if not found:
        yield from ((a, b) for a in ours for b in theirs)


def show(asked: Sequence[str], *, as_json: bool) -> None:
    """Print how the scores of records, or of cells that words describe, come about. Raises UsageError."""
    found = read(asked)
    if as_json:
        print(json.dumps([{**asdict(one), "settings": one.settings} for one in found]))
        return
    for one in found:
        rows = [
            ("task hash", one.task_hash),
            ("version", str(one.task["version"])),
            *((f"task.{key}", _text(value)) for key, value in one.settings.items()),
            *_rules(one),
            ("sample set", " ".join(f"{key}={value}" for key, value in one.samples.items())),
            *((key, _text(value)) for key, value in one.setting.items() if value not in (None, "")),
        ]
        show_table(f"{one.task['name']}, context {one.context}", ("", ""), rows)


def _rules(one: Scored) -> list[tuple[str, str]]:
    if one.rules is None:
        return [("rules", "others than this kvfrontier's of that version: it cannot say them")]
    return [
        line
        for key, value in one.rules.items()
        for line in (
            [(f"{key}.{part}", _text(words)) for part, words in value.items()]
            if isinstance(value, Mapping)
            else [(key, _text(value))]
        )
    ]


def diff(a: str, b: str, *, as_json: bool) -> None:
    """Print, for scores of two sides, what they may be put together for, and why not. Raises UsageError."""
    compared = [(one, other, differences(one, other)) for one, other in pairs(read(a), read(b))]
    if as_json:
        rows = [
            {"a": _name(one), "b": _name(other), **found, "unknown": unknown(one, other)}
            for one, other, found in compared
        ]
        print(json.dumps(rows))
        return
    for one, other, found in compared:
        print(f"{_name(one)} beside {_name(other)}")
        open_ = unknown(one, other)
        for question, why in found.items():
            print(f"  {question}: {'no' if why else 'not known' if open_[question] else 'yes'}")
            for line in why:
                print(f"    {line}")
            if not why and open_[question]:
                print(f"    one side does not say: {', '.join(open_[question])}")


def _name(one: Scored) -> str:
    return f"{one.task['name']} ({one.task_hash[:8]}) at {one.context} of {one.where}"


def _made(cell: Cell) -> tasks.Task | None:
    """The task that a cell names; None where this kvfrontier has no such task, or not with these parameters, or lacks
    what says its rules."""
    try:
        task = tasks.make({k: v for k, v in cell.task.items() if k != "version"})
        task.hash()
        return task
    except UsageError:
        return None


def _parts(samples: str) -> dict[str, str]:
    """A sample set by its parts: `n=8 seed=0 tokenizer=... data=...`."""
    head, _, data = samples.partition(" data=")
    return dict(part.split("=", 1) for part in head.split() if "=" in part) | ({"data": data} if data else {})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
