"""`kvfrontier merge`: one folder of records from several, in memory that does not grow with what the records hold.

Which line stands is found by polars, lazily and in a stream: of every line it keeps an id, a time, a device and a hash.
The lines themselves are then copied from file to file, one at a time. Loads no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import SCHEMA_VERSION, BadRecords, NewerSchema, TornLine, check_writable, record_files
from kvfrontier.runners.tables import show_table

#: What does not vary from run to run: where it differs between two records of one id, something is wrong with one.
FIXED = ("quality.status", "quality.scores", "memory.status", "memory.live_payload", "memory.live_slack")
#: So many conflicts are shown; conflicts.json has the ids of all.
SHOWN = 20


@dataclass(frozen=True)
class Conflict:
    """Two records of one id whose results differ. `differs`: what each file says, by the record's keys."""

    id: str
    name: str
    differs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Merged:
    """What came of a merge. `records`: how many there are of each device; `repeated`: lines that gave way to another of
    their id; `conflicting`: ids of which records differ, some of them in `conflicts`."""

    output: str
    records: dict[str, int]
    repeated: int
    conflicting: tuple[str, ...]
    conflicts: tuple[Conflict, ...]


def merge(paths: Sequence[Path], output: Path) -> Merged:
    """Write the union of `paths` to the new folder `output`: DEVICE/FILE.jsonl, every record as it was.

    Raises UsageError where there are no records, or the folder is not new; NewerSchema and BadRecords, with file and
    line, for lines that are no records.
    """
    files = [file for file in record_files(*paths) if file.stat().st_size]
    if not files:
        raise UsageError(f"there are no records in {', '.join(map(str, paths))}; make some with: kvfrontier run")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already; name a new folder with -o DIR, for a merge changes nothing")
    index = _index(files).collect(engine="streaming")
    _refuse(index, files)
    index = index.filter(pl.col("id").is_not_null())
    kept = _kept(index)
    conflicting = _conflicting(index)
    work = check_writable(output.absolute().parent, "-o DIR") / f".{output.name}.{os.getpid()}.part"
    try:
        work.mkdir()
        _copy(files, kept, work)
        (work / "conflicts.json").write_text(json.dumps(conflicting, indent=1) + "\n")
        if output.exists():
            output.rmdir()
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    counted = kept.group_by("device").len().sort("device")
    return Merged(
        output=str(output),
        records=dict(zip(counted["device"].to_list(), counted["len"].to_list(), strict=True)),
        repeated=index.height - kept.height,
        conflicting=tuple(conflicting),
        conflicts=tuple(_explained(files, conflicting[:SHOWN])),
    )


def _lines(files: Sequence[Path]) -> pl.LazyFrame:
    """Every line with its place among all, and its file."""
    return pl.scan_lines(list(files), row_index_name="row", include_file_paths="file", glob=False)


def _index(files: Sequence[Path]) -> pl.LazyFrame:
    """Of every line what decides whether it stands; `id` is null where it is no record."""
    said = pl.col("line").str
    fixed = pl.concat_str(*(said.json_path_match(f"$.{key}").fill_null("") for key in FIXED), separator="\x00")
    statuses = [said.json_path_match(f"$.{block}.status") for block in ("quality", "memory", "time")]
    return (
        _lines(files)
        .filter(said.strip_chars() != "")
        .select(
            "row",
            pl.col("file").cast(pl.Categorical),
            said.json_path_match("$.id").alias("id"),
            said.json_path_match("$.created").alias("created"),
            said.json_path_match("$.environment.device_name").cast(pl.Categorical).alias("device"),
            said.json_path_match("$.schema_version").cast(pl.Int16, strict=False).alias("version"),
            pl.any_horizontal(status.eq("failed") for status in statuses).alias("failed"),
            said.json_path_match("$.quality.task_hash").fill_null("").hash().alias("task"),
            fixed.hash().alias("fixed"),
        )
    )


def _refuse(index: pl.DataFrame, files: Sequence[Path]) -> None:
    """Raise for the first line that cannot be merged; warn of torn ones."""
    newer = index.filter(pl.col("version") > SCHEMA_VERSION).head(1)
    for row, version in newer.select("row", "version").iter_rows():
        file, number = _place(files, row)
        raise NewerSchema(
            f"{file}, line {number}: schema version {version}, and this kvfrontier reads up to {SCHEMA_VERSION}; "
            "upgrade kvfrontier"
        )
    broken = index.filter(pl.any_horizontal(pl.col("id", "created", "device", "version").is_null()))
    for (row,) in broken.select("row").iter_rows():
        file, number = _place(files, row)
        last = index.filter(pl.col("file") == str(file))["row"].max() == row
        if not last or _ends_whole(file):
            raise BadRecords(f"{file}, line {number}: not a record; remove or mend this line")
        warnings.warn(
            f"{file}, line {number}: the last line is torn, for its writer was interrupted, and is left out",
            TornLine,
            stacklevel=3,
        )


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as lines:
        lines.seek(-1, os.SEEK_END)
        return lines.read() == b"\n"


def _place(files: Sequence[Path], row: int) -> tuple[Path, int]:
    """The file and the line of a row."""
    for file in files:
        with file.open("rb") as lines:
            count = sum(1 for _ in lines)
        if row < count:
            return file, row + 1
        row -= count
    raise IndexError(row)


def _kept(index: pl.DataFrame) -> pl.DataFrame:
    """The lines that stand: as record.load_records chooses them."""
    order = index.sort("row").unique(["id", "file"], keep="last", maintain_order=True)
    order = order.sort(~pl.col("failed"), pl.col("created"), pl.col("row"))
    return order.unique("id", keep="last", maintain_order=True).select("row", "device")


def _conflicting(index: pl.DataFrame) -> list[str]:
    """Ids of which records differ in what is fixed, scored by the same task; a failure conflicts with nothing."""
    differing = index.lazy().filter(~pl.col("failed")).group_by("id", "task").agg(pl.col("fixed").n_unique())
    return differing.filter(pl.col("fixed") > 1).select("id").unique().sort("id").collect()["id"].to_list()


def _explained(files: Sequence[Path], ids: Sequence[str]) -> Iterator[Conflict]:
    """What the records of some ids say otherwise, file by file."""
    if not ids:
        return
    wanted = _lines(files).filter(pl.col("line").str.json_path_match("$.id").is_in(list(ids)))
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file, line in wanted.select("file", "line").collect(engine="streaming").iter_rows():
        record = json.loads(line)
        found.setdefault(record["id"], []).append((file, record))
    for id in ids:
        values = {key: {file: _at(record, key) for file, record in found[id]} for key in FIXED}
        differs = {key: said for key, said in values.items() if len({json.dumps(v) for v in said.values()}) > 1}
        cell = found[id][0][1]["cell"]
        name = f"{found[id][0][1]['info']['label']} on {cell['model']}, {cell['task']['name']} at {cell['context']}"
        yield Conflict(id, name, differs)


def _at(record: Any, key: str) -> Any:
    for part in key.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def _copy(files: Iterable[Path], kept: pl.DataFrame, work: Path) -> None:
    """Copy the lines that stand, each to its device's folder and under its file's name."""
    devices = kept["device"].cast(pl.String).unique().sort().to_list()
    folders = [work / _slug(device) for device in devices]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    number = {device: i for i, device in enumerate(devices)}
    rows = kept["row"].to_numpy()
    to = np.full(int(rows.max()) + 1, -1, dtype=np.int16)
    to[rows] = kept["device"].cast(pl.String).replace_strict(number, return_dtype=pl.Int16).to_numpy()
    row = -1
    for file in files:
        with file.open("rb") as lines:
            out: dict[int, Any] = {}
            try:
                for line in lines:
                    row += 1
                    device = int(to[row]) if row < len(to) else -1
                    if device >= 0:
                        if device not in out:
                            out[device] = (folders[device] / file.name).open("ab")
                        out[device].write(line if line.endswith(b"\n") else line + b"\n")
            finally:
                for handle in out.values():
                    handle.close()


def _slug(device: str) -> str:
    return re.sub(r"[^\w.]+", "-", device).strip("-").lower() or "device"


def show(paths: Sequence[Path], output: Path, *, as_json: bool) -> None:
    """Merge, and print what came of it."""
    found = merge(paths, output)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    rows = [(device, f"{count:,}", str(output / _slug(device))) for device, count in found.records.items()]
    show_table(None, ("device", "records", "folder"), rows, numbers=("records",))
    print(f"records: {sum(found.records.values()):,}, repeated and left out: {found.repeated:,}")
    if found.conflicting:
        print(f"conflicts: {len(found.conflicting):,}; ids in {output / 'conflicts.json'}, and the later records stand")
    for conflict in found.conflicts:
        for key, said in conflict.differs.items():
            told = "; ".join(f"{file} says {json.dumps(value)}" for file, value in said.items())
            print(f"conflict: {conflict.name}: {key}: {told}")
