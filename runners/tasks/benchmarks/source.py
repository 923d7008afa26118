"""Rows of a benchmark's data set: from a folder, or from the hub at a pinned commit."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from kvfrontier.runners.errors import UsageError


@dataclass(frozen=True)
class Hub:
    """Where on the Hugging Face hub: a data-set repository, a commit, and the zip in which files lie, if any."""

    repository: str
    revision: str
    archive: str | None = None


class Row(dict[str, Any]):
    """A row of a file. To ask it for a field that it has not is a UsageError which says where the row is (`place`)."""

    def __init__(self, fields: Mapping[str, Any], place: str) -> None:
        super().__init__(fields)
        self.place = place

    def __missing__(self, field: str) -> Any:
        raise UsageError(
            f"{self.place} has no field {field!r}, which this benchmark's rows have; name its own files with task.path"
        )

    def plus(self, fields: Mapping[str, Any]) -> Row:
        """The same row with other fields besides, or instead."""
        return Row({**self, **fields}, self.place)


@dataclass(frozen=True)
class Rows:
    """What a file holds, and the first digits of its sha256."""

    rows: Sequence[Row]
    revision: str


@cache
def described(name: str) -> dict[str, Any]:
    """What the YAML of a benchmark says."""
    return yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))


def content(file: str, hub: Hub | None, path: str | None) -> bytes:
    """A file's bytes: below the folder `path`, or from the hub. Raises UsageError where it is in neither."""
    if path is not None:
        return _below(Path(path), file).read_bytes()
    if hub is None:
        raise UsageError("this benchmark's files are not on the hub one by one; name a folder with task.path=DIR")
    fetched = _fetch(hub, hub.archive or file)
    if hub.archive is None:
        return fetched.read_bytes()
    with zipfile.ZipFile(fetched) as archive:
        member = next((name for name in archive.namelist() if Path(name).name == file), None)
        if member is None:
            raise UsageError(f"{hub.archive} of {hub.repository} holds no {file}; name a folder with task.path=DIR")
        return archive.read(member)


def _below(folder: Path, file: str) -> Path:
    """The file in a folder, wherever the archive put it there. Raises UsageError."""
    if folder.is_file():
        return folder
    name = Path(file).name
    found = [folder / file] if (folder / file).is_file() else sorted(folder.rglob(name))
    if not found:
        raise UsageError(f"task.path={folder}: there is no {name} in this folder; name one that holds it")
    return found[0]


def _fetch(hub: Hub, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub.repository, file, repo_type="dataset", revision=hub.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"{file} of {hub.repository} at {hub.revision[:8]} cannot be fetched from the hub "
            f"({(reason or [repr(error)])[0]}); download it where there is a network, and name the folder with "
            "task.path=DIR"
        ) from error


@lru_cache(maxsize=8)
def rows(file: str, hub: Hub | None, path: str | None) -> Rows:
    """The rows of a JSON or JSON-lines file. Raises UsageError where it cannot be read, or holds something else."""
    text = content(file, hub, path)
    try:
        parsed = (
            json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines() if line]
        )
    except ValueError as error:
        raise UsageError(f"{file} is no {Path(file).suffix.lstrip('.')} ({error}); fetch it again") from error
    where = f"{file} of {hub.repository}" if path is None and hub else f"task.path={path}: {Path(file).name}"
    if not isinstance(parsed, list) or not all(isinstance(row, dict) for row in parsed):
        raise UsageError(f"{where} is no list of JSON objects, which rows are; name another file with task.path")
    made = [Row(row, f"{where}, row {number},") for number, row in enumerate(parsed, 1)]
    return Rows(made, hashlib.sha256(text).hexdigest()[:12])


def digest(*texts: str) -> str:
    """The first digits of the sha256 of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
