"""`kvfrontier wandb-sync`: records that exist, replayed into a W&B project, one run a job. Nothing is run again.

What a project has is written beside the records, in wandb/synced.json: of each job its W&B run and the records that
were sent. A run is entered there before it is begun, and its records when W&B has them all, so that a sync that died
goes on in the same run: a record's step is its place in the job, and W&B takes no step twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvfrontier.runners.cache import locked, read_json, write_whole
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.job import records_file
from kvfrontier.runners.progress import working
from kvfrontier.runners.record import Record, check_writable, iter_records, load_records, record_files
from kvfrontier.runners.tables import show_table
from kvfrontier.runners.tracker import WandbSettings, one_line
from kvfrontier.runners.tracker.wandb import WandbTracker, artifact_name, init, new_id, why_offline


class SyncFailed(Exception):
    """W&B did not take everything; the same command goes on from there."""


@dataclass
class Synced:
    """One job, and how many of its records W&B had before and was given now."""

    job: str
    group: str
    run: str
    before: int = 0
    sent: int = 0


@dataclass
class Ledger:
    """What a project has of the records in one folder: by job, the W&B run and its records' ids with their dates."""

    file: Path
    target: str
    known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, target: str) -> Ledger:
        """The ledger of a folder of records; `target` names the server and the project."""
        file = folder / "wandb" / "synced.json"
        return cls(file, target, read_json(file).get(target, {}))

    def run_id(self, job: str, new: str) -> str:
        """The job's run, from now on `new` where it had none."""
        if job not in self.known:
            self._enter(job, {"run": new, "records": {}})
        return self.known[job]["run"]

    def has(self, job: str, record: Record) -> bool:
        """Whether the project has this record; one that was measured again since is another."""
        return self.known.get(job, {}).get("records", {}).get(record.id) == record.created

    def add(self, job: str, records: Iterable[Record]) -> None:
        """W&B has taken these."""
        there = self.known[job]
        self._enter(job, there | {"records": there["records"] | {r.id: r.created for r in records}})

    def _enter(self, job: str, entry: dict[str, Any]) -> None:
        with locked(self.file):
            everything = read_json(self.file)
            self.known = {**everything.get(self.target, {}), job: entry}
            write_whole(self.file, json.dumps({**everything, self.target: self.known}, indent=1).encode())


def show(paths: Sequence[Path], wanted: WandbSettings, *, report: bool, as_json: bool) -> None:
    """Replay the records of files and folders, and say what was sent. `report`: tables and figures of each folder too,
    as a run of their own. Raises UsageError before anything is sent, and SyncFailed where W&B did not take it all."""
    folders: dict[Path, list[Path]] = {}
    for file in record_files(*paths):
        folders.setdefault(file.parent, []).append(file)
    if not folders:
        raise UsageError(f"there are no records in {', '.join(map(str, paths))}; make some with: kvfrontier run")
    done: list[Synced] = []
    with working("wandb-sync") as say:
        for folder, files in folders.items():
            found = sync(folder, files, wanted, say)
            if report and any(one.sent for one in found):
                say(f"report of {folder}")
                publish_report(folder, files, wanted)
            done += found
    if as_json:
        print(json.dumps([vars(one) for one in done]))
        return
    rows = [(one.group, one.job, one.run, str(one.before), str(one.sent)) for one in done]
    columns = ("sweep", "job", "run", "there before", "sent")
    show_table(f"W&B project {wanted.project}", columns, rows, numbers=columns[3:])


def sync(
    folder: Path, files: Iterable[Path], wanted: WandbSettings, say: Callable[[str], None] = lambda what: None
) -> list[Synced]:
    """Send what the project has not of the records in `files`, all of one folder. Raises as `show` does."""
    import wandb

    check_writable(folder / "wandb", "a copy of it")
    if trouble := why_offline(wandb, wanted.timeout):
        raise UsageError(f"W&B is out of reach ({trouble}); nothing was sent")
    server = wandb.setup().settings.base_url
    ledger = Ledger.of(folder, f"{server} {wanted.entity or '(default entity)'}/{wanted.project}")
    done = []
    for name, job in _jobs(files).items():
        missing = [record for record in job.records if not ledger.has(name, record)]
        say(f"{name}: {len(missing)} of {len(job.records)} records")
        run_id = ledger.run_id(name, new_id())
        if missing:
            _send(wandb, name, job, missing, run_id, wanted)
            ledger.add(name, missing)
        before = len(job.records) - len(missing)
        done.append(Synced(name, wanted.group or folder.resolve().name, run_id, before, len(missing)))
    return done


@dataclass
class _Job:
    """The records of a job in the order in which they were made, those that were made again included; and their
    file."""

    file: Path
    records: list[Record] = field(default_factory=list)


def _jobs(files: Iterable[Path]) -> dict[str, _Job]:
    jobs: dict[str, _Job] = {}
    for file in files:
        for record in iter_records(file):
            jobs.setdefault(records_file(Path(), record.cell).stem, _Job(file)).records.append(record)
    return jobs


def _send(wandb: Any, name: str, job: _Job, missing: Sequence[Record], run_id: str, wanted: WandbSettings) -> None:
    cell = job.records[0].cell
    shared = {key: getattr(cell, key) for key in ("model", "dtype", "device", "method")}
    try:
        run = init(wandb, wanted, mode="online", name=name, config=shared, folder=job.file.parent, run_id=run_id)
        tracker = WandbTracker(run, job.file, with_samples=wanted.samples, strict=True)
        for step, record in enumerate(job.records):
            # What an earlier sync had sent before it died is there, by its step.
            if record in missing and step >= run.step:
                tracker.log(record, step)
            else:
                tracker.remember(record)
        tracker.finish(exit_code=0)
    except Exception as error:
        raise SyncFailed(
            f"W&B did not take {name} ({one_line(error)}); run the same command to go on from there"
        ) from error


def publish_report(folder: Path, files: Iterable[Path], wanted: WandbSettings) -> None:
    """The tables and figures of records as a run of their own. Raises SyncFailed."""
    import wandb

    from kvfrontier.analysis.report import write_report

    sweep = wanted.group or folder.resolve().name
    with tempfile.TemporaryDirectory() as work:
        written = write_report(load_records(*files), work, source=folder.name)
        try:
            run = init(
                wandb, wanted, mode="online", name=f"report {sweep}", config={}, folder=folder, job_type="report"
            )
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in written if path.suffix == ".png"})
            artifact = wandb.Artifact(artifact_name("report", sweep), type="report")
            artifact.add_dir(work)
            run.log_artifact(artifact)
            run.finish()
        except Exception as error:
            raise SyncFailed(f"W&B did not take the report ({one_line(error)}); run the same command again") from error
