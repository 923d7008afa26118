"""Running what published comparisons need, and judging what is there.

Records go to one folder, a file a job, as a sweep's do; what is recorded is not run again. What the model must be able
to do for a claim to mean anything is run first: where it cannot, the rest of that comparison is not run at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvfrontier.analysis.reproduce import table
from kvfrontier.analysis.reproduce.comparison import SCALES, Comparison, Scale, comparison, names, scale
from kvfrontier.analysis.reproduce.judge import Found, Judgement, judge, untestable
from kvfrontier.runners import cell as cells
from kvfrontier.runners import progress
from kvfrontier.runners.cache import write_whole
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.job import records_file
from kvfrontier.runners.record import BadRecords, Record, append, load_records
from kvfrontier.runners.reproduce import measures
from kvfrontier.runners.reproduce.cases import Asked, Cases, Composing, by_identity

TABLE, PAGE = "verdicts.json", "verdicts.md"


@dataclass(frozen=True)
class Reproduction:
    """Comparisons at a scale, and the folder of their records. `words`: overrides that replace the scale's own."""

    scale: Scale
    words: tuple[str, ...]
    folder: Path
    all: tuple[Cases, ...]

    @classmethod
    def of(cls, asked: Sequence[str], at: Scale, words: Sequence[str], folder: Path) -> Reproduction:
        """Raises UsageError for a comparison or an override that does not exist."""
        composing = Composing(scale(at), words)
        return cls(at, tuple(words), folder, tuple(composing.cases(known(name), at) for name in asked))

    def records(self) -> dict[str, Record]:
        """What is recorded, by `identity`."""
        return by_identity(load_records(self.folder)) if self.folder.exists() else {}

    def found(self, cases: Cases, records: Mapping[str, Record]) -> Found:
        """Evidence of a comparison; what is not there yet is said to be missing."""
        if self.scale in cases.comparison.cannot:
            return {}
        return {**cases.evidence(records), **measures.measured(cases.comparison, self.folder)}

    def foretold(self, cases: Cases, records: Mapping[str, Record]) -> str:
        """Why a comparison cannot be tested here, as far as that is known before it is run; empty where it may."""
        there = {
            key: e
            for key, e in self.found(cases, records).items()
            if e.units or (key in cases.cells and cases.cells[key].identity in records)
        }
        return untestable(cases.comparison, self.scale, there)

    def missing(self, records: Mapping[str, Record]) -> list[Asked]:
        """Cells that are still to run, each once, of comparisons that may be tested."""
        open_ = [cases for cases in self.all if not self.foretold(cases, records)]
        wanted = {asked.identity: asked for cases in open_ for asked in cases.cells.values()}
        return [asked for asked in wanted.values() if not asked.is_recorded(records)]

    def judged(self) -> list[Judgement]:
        """Verdicts on what is recorded. Raises BadRecords."""
        records = self.records()
        return [judge(cases.comparison, self.scale, self.found(cases, records)) for cases in self.all]

    def execute(self, say: Callable[[str], None]) -> int:
        """Run what is missing, and return how many cells failed. `say` is told what cannot be tested, once it is known.

        Raises UsageError before any work is done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.records()
        foretold = {cases.comparison.name for cases in self.all if self.foretold(cases, before)}
        first = {asked.identity for cases in self.all for asked in cases.needed_first()}
        self._run([asked for asked in self.missing(before) if asked.identity in first])
        now = self.records()
        for cases in self.all:
            reason = self.foretold(cases, now)
            if reason and cases.comparison.name not in foretold:
                say(f"{cases.comparison.name} cannot be tested here: {reason}")
        self._run(self.missing(now))
        for cases in self.all:
            if self.scale not in cases.comparison.cannot and measures.missing_measures(cases.comparison, self.folder):
                with progress.working("measuring") as tell:
                    measures.measure(cases.comparison, self.folder, tell)
        there = self.records()
        wanted = {asked.identity for cases in self.all for asked in cases.cells.values()}
        return sum(there[key].quality.status == "failed" for key in wanted & there.keys())

    def _run(self, missing: Sequence[Asked]) -> None:
        jobs: dict[str, list[Asked]] = {}
        for asked in missing:
            jobs.setdefault(asked.job, []).append(asked)
        for job in jobs.values():
            cells.check([asked.cell for asked in job], job[0].config["model"])
        with progress.cells(sum(asked.cell.context for asked in missing)):
            for job in jobs.values():
                _run_job(sorted(job, key=lambda asked: asked.cell.context), self.folder)

    def write(self, judgements: Sequence[Judgement]) -> tuple[Path, Path]:
        """The table as data and as a page, beside the records."""
        found = table.data(judgements, scale(self.scale), self.words)
        data, page = self.folder / TABLE, self.folder / PAGE
        write_whole(data, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
        write_whole(page, table.page(found).encode())
        return data, page


def _run_job(job: Sequence[Asked], folder: Path) -> None:
    """Cells that share a model and a method, a record each as soon as it is there."""
    first = job[0]
    bench = cells.Bench(first.cell, first.config["model"])
    file = records_file(folder, first.cell)
    bar = progress.cell_bar()
    for asked in job:
        name = cells.name(asked.cell)

        def say(what: str, name: str = name) -> None:
            if bar:
                bar.say(f"{name}: {what}")

        append(file, bench.run(asked.cell, asked.config, say))
        if bar:
            bar.advance(asked.cell.context)


def known(name: str) -> Comparison:
    """A comparison. Raises UsageError, with the nearest name, where there is none."""
    if name not in names():
        raise unknown("comparison", name, names())
    return comparison(name)


def written(folder: Path) -> tuple[Scale, list[str], list[str]] | None:
    """Scale, words and names of the comparisons of which a folder holds verdicts; None where it holds none.

    Verdicts are not read: they are made of records alone. Raises BadRecords.
    """
    file = folder / TABLE
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_bytes())
        at, words = found["scale"], [str(word) for word in found["overrides"]]
        there = [str(one["name"]) for one in found["comparisons"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecords(f"{file}: not a table of verdicts ({error}); remove it and judge again") from error
    if at not in SCALES:
        raise BadRecords(f"{file}: there is no scale {at!r}; remove it and judge again")
    return at, words, there


def in_order(asked: Iterable[str]) -> list[str]:
    """Names of comparisons, each once, in the order of the table."""
    wanted = set(asked)
    return [name for name in names() if name in wanted]


def check_same(folder: Path, at: Scale, words: Sequence[str]) -> list[str]:
    """The names that a folder has verdicts on already. Raises UsageError where they are of another scale or model:
    one table is of one."""
    there = written(folder)
    if there is None:
        return []
    if (there[0], there[1]) != (at, list(words)):
        told = " ".join([f"--scale {there[0]}", *there[1]])
        raise UsageError(f"{folder} holds verdicts of {told}; name another folder with --results")
    return there[2]
