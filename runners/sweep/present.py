"""What a folder of records holds, read quickly: of each record what planning asks of it, and not its samples.

Thousands of records are read in a second, which checking each against its schema would not be; a report does check.
Loads no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from kvfrontier.runners.record import (
    SCHEMA_VERSION,
    BadRecords,
    NewerSchema,
    Status,
    TornLine,
    outcome,
    record_files,
    supersedes,
)


@dataclass(frozen=True)
class Device:
    """Of a record's environment, what decides its id."""

    device_kind: str
    device_name: str


@dataclass(frozen=True)
class Brief:
    """A record without its results.

    cell     as in Record, plain
    seconds  what the cell took; of records of schemas 1 and 2 what its passes took, as far as their times say
    reason   of the first block that is not ok
    """

    id: str
    created: str
    status: Status
    cell: Mapping[str, Any]
    label: str
    environment: Device
    seconds: float | None
    reason: str = ""
    command: str = ""


def briefs(*paths: str | Path) -> dict[str, Brief]:
    """The records of files and folders by id, each once, as load_records chooses them; nothing where there is no
    folder. Raises as load_records does for what is no JSON and for newer schemas."""
    found: dict[str, Brief] = {}
    for file in record_files(*(path for path in map(Path, paths) if path.exists())):
        for key, brief in {b.id: b for b in _of_file(file)}.items():
            if key not in found or supersedes(brief, found[key]):
                found[key] = brief
    return found


def _of_file(file: Path) -> Iterator[Brief]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                yield _brief(line)
            except _Newer as error:
                raise NewerSchema(
                    f"{file}, line {number}: schema version {error}, and this kvfrontier reads up to {SCHEMA_VERSION}; "
                    "upgrade kvfrontier"
                ) from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if line.endswith(b"\n"):
                    raise BadRecords(
                        f"{file}, line {number}: not a record ({error}); remove or mend this line"
                    ) from error
                warnings.warn(
                    f"{file}, line {number}: the last line is torn, for its writer was interrupted, and is passed over",
                    TornLine,
                    stacklevel=3,
                )


class _Newer(Exception):
    """Raised with the version of the schema."""


def _brief(line: bytes) -> Brief:
    data = from_json(line, cache_strings="keys")
    if data["schema_version"] > SCHEMA_VERSION:
        raise _Newer(data["schema_version"])
    quality, memory, time, cell = data["quality"], data["memory"], data["time"], data["cell"]
    blocks = {"quality": quality, "memory": memory, "time": time}
    timed = cell["protocol"].get("repetitions") != 0
    statuses = {name: block["status"] for name, block in blocks.items()}
    status = outcome(statuses, bool(data.get("search")), bool(cell.get("workload")), timed)
    return Brief(
        id=data["id"],
        created=data["created"],
        status=status,
        cell=cell,
        label=data["info"]["label"],
        environment=Device(data["environment"]["device_kind"], data["environment"]["device_name"]),
        seconds=data.get("seconds") or _seconds(quality, time),
        reason=next((b["reason"] for b in blocks.values() if b["status"] == status != "ok" and b.get("reason")), ""),
        command=data.get("command", ""),
    )


def _seconds(quality: Mapping[str, Any], time: Mapping[str, Any]) -> float | None:
    """Every timed pass and the memory pass as the median, and each sample as a prefill."""
    if not time.get("prefill") or not time.get("decode"):
        return None
    prefill, token = time["prefill"]["median"], time["decode"]["median"]
    passes = time["repetitions"] + time["warmups"] + 1
    return passes * (prefill + token * time["decoded_tokens"]) + len(quality.get("samples", ())) * prefill
