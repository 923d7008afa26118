"""A folder that can be published: records as they are, the table of all rows, the report, the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from kvfrontier.analysis import flat
from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report import write_report
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.publish.card import TABLE, card, croissant
from kvfrontier.runners.record import load_records, record_files
from kvfrontier.runners.submission.show import validate


def prepare(paths: Sequence[Path], folder: Path, name: str) -> list[Path]:
    """Write the data set into a folder that is new or empty, and return its files.

    Records are copied as they stand. Raises UsageError where the folder holds something, where there are no records,
    and where one of them would not pass `kvfrontier validate`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty, and publish overwrites nothing; name a new folder with -o")
    files = record_files(*paths)
    if not files:
        raise UsageError(f"there are no records in {', '.join(map(str, paths))}; make some with: kvfrontier run")
    wrong = validate(files).problems
    if wrong:
        first = wrong[0]
        raise UsageError(
            f"{len(wrong)} problems in these records, the first in {first.file}, line {first.line}: {first.problem}; "
            "kvfrontier validate shows all"
        )
    copies = [folder / "records" / target for target in _names(files)]
    for file, copy in zip(files, copies, strict=True):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    records = load_records(*copies)
    made = write_report(records, folder, source="records")
    rows = flat.table(boards(records))
    rows.write_parquet(folder / TABLE)
    made.append(folder / TABLE)
    text = card(name, records, len(rows), (folder / "leaderboard.md").read_text(encoding="utf-8"))
    told = folder / "README.md"
    told.write_text(text, encoding="utf-8")
    written = [*copies, *made, told]
    schema = {column: str(kind) for column, kind in rows.schema.items()}
    about = folder / "croissant.json"
    about.write_text(json.dumps(croissant(name, folder, written, schema), indent=1) + "\n", encoding="utf-8")
    return sorted([*written, about])


def _names(files: Sequence[Path]) -> list[str]:
    """A name for each file; files of two folders may have one name."""
    found: dict[str, int] = {}
    names = []
    for file in files:
        count = found.setdefault(file.name, 0)
        found[file.name] += 1
        names.append(file.name if not count else f"{file.stem}-{count + 1}{file.suffix}")
    return names
