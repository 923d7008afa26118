"""What the suite writes down: one line of JSON for each item, on the disk before the next begins.

suite.jsonl     entries, one an item; a repeated item's later one counts
records.jsonl   records of the embedded model's sweep (runners/record.py)
suite.md        the page
trace-*.json.gz profiles
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

#: What may leave the machine: so many files, each of so many bytes.
MOST_FILES, MOST_BYTES = 8, 16 * 1024 * 1024

Status = Literal["ok", "oom", "refused", "failed", "timeout", "crashed"]
#: Measured, or known not to be measurable here: a second run does not try again.
DONE = ("ok", "oom", "timeout")


class Entry(BaseModel):
    """One item: `values` are what it found (seconds, bytes, shares); refused: it cannot run here, and `reason` says
    why."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    part: str
    name: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    created: float = 0.0
    values: dict[str, Any] = {}


class Journal:
    """The file of entries in a folder, and the note of what is running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "suite.jsonl"
        self._running = folder / "running.json"

    def entries(self) -> dict[str, Entry]:
        """By name, the last of each. A last line that was not finished is passed over."""
        found: dict[str, Entry] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = Entry.model_validate_json(line)
                except ValueError:
                    continue
                found[entry.name] = entry
        return found

    def done(self) -> set[str]:
        """Names that need not be run again."""
        return {name for name, entry in self.entries().items() if entry.status in DONE}

    def begin(self, part: str, name: str, limit: float) -> None:
        """Note that an item runs now, which may take `limit` seconds."""
        note = json.dumps({"part": part, "name": name, "limit": limit, "begun": time.time()})
        new = self._running.with_suffix(".new")
        new.write_text(note)
        new.replace(self._running)

    def running(self) -> dict[str, Any] | None:
        """What runs now, or ran when its process ended; None between items."""
        try:
            return json.loads(self._running.read_text())
        except FileNotFoundError:
            return None

    def forget(self) -> None:
        """Nothing runs, whatever a process that was killed has left."""
        self._running.unlink(missing_ok=True)

    def end(self, entry: Entry) -> None:
        """Write an entry, to the disk."""
        line = (entry.model_copy(update={"created": time.time()}).model_dump_json() + "\n").encode()
        with self.file.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # its writer was killed
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.forget()

    def check_size(self) -> list[str]:
        """What would not travel: files beyond MOST_FILES, or of MOST_BYTES or more; in words."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        large = [(path.name, path.stat().st_size) for path in files if path.stat().st_size >= MOST_BYTES]
        wrong = [f"{name} has {size:,} bytes" for name, size in large]
        return wrong + ([f"there are {len(files)} files"] if len(files) > MOST_FILES else [])
