"""All problems of some files of records, for a person to read, or for the workflow that gates a pull request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Record, iter_records, record_files
from kvfrontier.runners.submission.invariants import problems
from kvfrontier.runners.submission.reading import lines
from kvfrontier.runners.tables import show_table


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; line 0 is the file itself."""

    file: str
    line: int
    problem: str


@dataclass
class Validated:
    """What was looked at, and what is wrong with it."""

    files: list[str]
    records: int
    problems: list[Problem]


def validate(files: Sequence[Path], against: Iterable[Record] = ()) -> Validated:
    """Look at every record of some files. `against`: records that there are already, of which none may come again."""
    found = Validated([str(file) for file in files], 0, [])
    known = {record.id: "among those that are there" for record in against if record.status != "failed"}
    for file in files:
        for line in lines(file):
            wrong = [line.problem] if line.problem else []
            if line.record is not None:
                found.records += 1
                wrong += problems(line.record)
                if line.record.id in known:
                    wrong.append(f"its id {line.record.id[:12]} stands {known[line.record.id]}; leave one of them away")
                # What failed may be tried again, and its record follows.
                if line.record.status != "failed":
                    known.setdefault(line.record.id, f"in {file}, line {line.number}")
            found.problems += [Problem(str(file), line.number, text) for text in wrong]
        if not found.records and not any(p.file == str(file) for p in found.problems):
            found.problems.append(Problem(str(file), 0, "there is no record in it"))
    return found


def show(paths: Sequence[Path], against: Sequence[Path], *, as_json: bool) -> bool:
    """Print what is wrong with the records at `paths`, and return whether nothing is. Raises UsageError for a path that
    does not exist, or a folder without records."""
    files = record_files(*paths)
    if not files:
        raise UsageError(f"there are no .jsonl files in {', '.join(map(str, paths))}; name a file of records")
    mine = {file.resolve() for file in files}
    others = [file for file in record_files(*against) if file.resolve() not in mine]
    found = validate(files, iter_records(*others) if others else ())
    if as_json:
        print(json.dumps(asdict(found)))
        return not found.problems
    if found.problems:
        rows = [(p.file, str(p.line), p.problem) for p in found.problems]
        show_table(None, ("file", "line", "problem"), rows, numbers=("line",))
    print(f"files: {len(files)}, records: {found.records}, problems: {len(found.problems)}")
    return not found.problems
