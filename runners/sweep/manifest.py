"""What a sweep set out to do, beside its records: so that anybody who sees the folder can say what is still to go."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from kvfrontier.runners.record import content_hash
from kvfrontier.runners.sweep.claims import FOLDER
from kvfrontier.runners.sweep.pace import Kind


@dataclass(frozen=True)
class Wanted:
    """A cell that a sweep is to have a record of. `cell`: its hash, where the machine that runs it decides the id."""

    id: str
    name: str
    kind: Kind
    context: int
    batch: int
    cell: str = ""


def write(results: Path, wanted: Sequence[Wanted], words: Sequence[str]) -> Path:
    """Leave a note of the sweep; the same cells leave the same note. `words`: the overrides, for a person."""
    folder = results / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"plan-{content_hash([w.id for w in wanted])[:12]}.json"
    note = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "words": list(words),
        "cells": [asdict(w) for w in wanted],
    }
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(note))
    part.replace(file)
    return file


def read(results: Path) -> dict[str, Wanted]:
    """Every cell that a sweep of this folder is to have, by id."""
    found: dict[str, Wanted] = {}
    for file in sorted((results / FOLDER).glob("plan-*.json")):
        for cell in _cells(file):
            found[cell.id] = cell
    return found


def _cells(file: Path) -> Iterable[Wanted]:
    for cell in json.loads(file.read_bytes())["cells"]:
        yield Wanted(**{**cell, "kind": Kind(**cell["kind"])})


def folders(paths: Iterable[Path]) -> list[Path]:
    """Folders of records that sweeps write to, among `paths` and below them."""
    found = (note.parent.parent for path in paths for note in sorted(path.rglob(f"{FOLDER}/plan-*.json")))
    return list(dict.fromkeys(found))
