"""Stored answers, graded and scored again without a model: `kvfrontier rescore`.

Nothing is overwritten: records with new scores are new lines, and as the newer ones they count wherever both are read.
Where the task's rules have changed since the answers were given, the record says so (`Record.moved`), and no table puts
its scores beside others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners import tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Record, Rescored, append, check_writable, load_records
from kvfrontier.runners.tables import show_table
from kvfrontier.runners.tasks.answer import AnswerTask


class NoAnswers(ValueError):
    """A record that holds nothing to be scored again; says why."""


@dataclass(frozen=True)
class Rescoring:
    """A record before and after."""

    before: Record
    after: Record

    @property
    def regraded(self) -> list[int]:
        """Samples of which something else is known now."""
        pairs = zip(self.before.quality.samples, self.after.quality.samples, strict=True)
        return [i for i, (old, new) in enumerate(pairs) if old != new]

    @property
    def scores(self) -> dict[str, tuple[float | None, float | None]]:
        """Each score before and after; None where there is none of that name."""
        old, new = self.before.quality.scores, self.after.quality.scores
        return {
            name: (old[name].value if name in old else None, new[name].value if name in new else None)
            for name in dict.fromkeys([*new, *old])
        }

    @property
    def changed(self) -> bool:
        """Whether a grade, a score or its interval, or the task's hash is another now."""
        old, new = self.before.quality, self.after.quality
        return bool(self.regraded) or old.scores != new.scores or old.task_hash != new.task_hash


def rescore(record: Record) -> Rescoring:
    """Grade and score the answers of a record by the task as it is now. Raises NoAnswers where it holds none."""
    quality = record.quality
    if quality.status != "ok":
        raise NoAnswers(f"quality is {quality.status}")
    try:
        task = tasks.make({key: value for key, value in record.cell.task.items() if key != "version"})
    except UsageError as error:
        raise NoAnswers(str(error)) from error
    if not isinstance(task, AnswerTask) or not all({task.said, "targets"} <= s.keys() for s in quality.samples):
        raise NoAnswers(f"{quality.task} stores no answers to be graded")
    results = [task.graded(sample) for sample in quality.samples]
    origin = quality.rescored or Rescored(
        created=record.created, task_version=quality.task_version, task_hash=quality.task_hash
    )
    new = quality.model_copy(
        update={
            "task_version": task.version,
            "task_hash": task.hash(),
            "primary": task.primary,
            "scores": task.score(results, record.cell.seed),
            "samples": tuple(results),
            "chance": task.chance,
            "rescored": origin,
        }
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Rescoring(record, record.model_copy(update={"created": now, "quality": new}))


def show(paths: Sequence[Path], output: Path | None, *, as_json: bool) -> None:
    """Score what the records at `paths` answered again, print what changed, and write the new records to a new file.

    Raises UsageError where the file exists, and where no record has answers.
    """
    if output is not None and output.exists():
        raise UsageError(f"{output} exists, and rescore overwrites nothing; name a new file with -o")
    done: list[Rescoring] = []
    passed: Counter[str] = Counter()
    for record in load_records(*paths):
        try:
            done.append(rescore(record))
        except NoAnswers as error:
            passed[str(error)] += 1
    if not done:
        why = "; ".join(passed) or "there are no records"
        raise UsageError(f"nothing to score again in {', '.join(map(str, paths))}: {why}")
    if output is not None:
        check_writable(output.parent, "-o FILE")
        for found in done:
            append(output, found.after)
    if as_json:
        print(json.dumps({"rescored": [_as_json(found) for found in done], "passed_over": passed}))
        return
    rows = [row for found in done if found.changed for row in _rows(found)]
    if rows:
        columns = ("method", "task", "context", "score", "before", "after", "answers graded anew")
        show_table(None, columns, rows, numbers=columns[2:3] + columns[4:])
    print(f"scored again: {len(done)}, changed: {sum(found.changed for found in done)}")
    for why, n in passed.items():
        print(f"passed over: {n}, {why}")
    for note in dict.fromkeys(_moved(found) for found in done if found.after.moved):
        print(note)
    if output is not None:
        print(f"written: {output}")


def _moved(found: Rescoring) -> str:
    old, new = found.before.quality, found.after.quality
    return (
        f"{new.task}: answers to version {old.task_version} (hash {old.task_hash}), scored by version "
        f"{new.task_version} (hash {new.task_hash}); a report leaves these records out"
    )


def _rows(found: Rescoring) -> Iterable[tuple[str, ...]]:
    cell, n = found.before.cell, len(found.before.quality.samples)
    for name, (old, new) in found.scores.items():
        texts = ("" if value is None else f"{value:.4g}" for value in (old, new))
        regraded = f"{len(found.regraded)} of {n}"
        yield cells.method_label(cell), cells.task_label(cell), str(cell.context), name, *texts, regraded


def _as_json(found: Rescoring) -> dict[str, Any]:
    before, after = found.before, found.after
    return {
        "id": before.id,
        "method": before.info.label,
        "task": before.cell.task,
        "context": before.cell.context,
        "seed": before.cell.seed,
        "changed": found.changed,
        "regraded": found.regraded,
        "scores": {name: {"before": old, "after": new} for name, (old, new) in found.scores.items()},
        "task_hash": {"before": before.quality.task_hash, "after": after.quality.task_hash},
        "moved": after.moved,
    }
