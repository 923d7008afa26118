"""Weights & Biases: one run a job, with its curves, its samples as tables, and its records as an artifact.

Where the server cannot be reached, or refuses, the run is kept on disk instead, from where `wandb sync` sends it; once
it has been said how, the process does not ask the server again.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from kvfrontier.runners.record import Record
from kvfrontier.runners.tracker import Tracker, TrackerWarning, WandbSettings, one_line
from kvfrontier.runners.tracker.metrics import facts, flat, metrics, samples, task_name

#: Results folders whose runs stay on disk from now on.
_offline: set[Path] = set()


def begin(wanted: WandbSettings, *, name: str, config: Mapping[str, Any], folder: Path) -> WandbTracker:
    """A job's run, offline where the server cannot be reached in time; one that shows nothing where even that fails."""
    import wandb

    def run(mode: str, run_id: str | None = None) -> Any:
        return init(wandb, wanted, mode=mode, name=name, config=config, folder=folder, run_id=run_id)

    began = None
    if wanted.mode == "online" and folder not in _offline:
        trouble = why_offline(wandb, wanted.timeout)
        if not trouble:
            try:
                # A job that was interrupted goes on in its own run.
                began = run("online", run_id=_kept_id(folder, name))
            except Exception as error:  # noqa: BLE001 - the server's fault, the network's or the account's
                trouble = one_line(error)
        if trouble:
            _offline.add(folder)
            _warn(f"W&B is out of reach ({trouble}): runs are kept on disk; to send them: wandb sync {folder}/wandb")
    if began is None:
        try:
            began = run("offline")
        except Exception as error:  # noqa: BLE001 - as above
            _warn(f"W&B cannot keep this run ({one_line(error)}); the records are complete without it")
    return WandbTracker(began, folder / f"{name}.jsonl", with_samples=wanted.samples)


class WandbTracker(Tracker):
    """One W&B run. Whatever goes wrong with it is said once, and stops nothing.

    run           what wandb.init gave, or None: then nothing is shown
    records_file  kept as an artifact when the run ends
    strict        raise what goes wrong instead
    """

    def __init__(self, run: Any, records_file: Path, *, with_samples: bool = True, strict: bool = False) -> None:
        self._run = run
        self._records_file = records_file
        self._with_samples = with_samples
        self._strict = strict
        self._step: int | None = None
        self._tasks: dict[str, str] = {}
        self._samples: dict[str, list[dict[str, Any]]] = {}
        self._knows_facts = self._complained = False
        self._curves: set[str] = set()

    def log(self, record: Record, step: int | None = None) -> None:
        """Show one record; `step` is its place among the job's, where it is known."""
        shown = metrics(record)
        # Another task hash may not stand in the same curve: the same task with other parameters.
        task, task_hash = task_name(record), record.quality.task_hash
        if self._tasks.setdefault(task, task_hash) != task_hash:
            own = f"{task}-{task_hash[:4]}"
            shown = {key.replace(f"quality/{task}/", f"quality/{own}/"): value for key, value in shown.items()}
            task = own
        if not self._knows_facts:
            self._knows_facts = True
            self._tell(lambda run: run.config.update(facts(record), allow_val_change=True))
        self._step = step
        self._tell(lambda run: run.log(shown, step=step))
        self._keep_samples(task, record)

    def curve(self, name: str, values: Mapping[str, float]) -> None:
        prefix = f"train/{name}"
        if prefix not in self._curves:
            self._curves.add(prefix)
            self._tell(lambda run: run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step"))
        self._tell(lambda run: run.log({f"{prefix}/{key}": value for key, value in values.items()}))

    def remember(self, record: Record) -> None:
        """A record that is shown already: its samples belong to the tables."""
        self._keep_samples(task_name(record), record)

    def _keep_samples(self, task: str, record: Record) -> None:
        if self._with_samples:
            self._samples.setdefault(task, []).extend(samples(record))

    def finish(self, exit_code: int) -> None:
        """The job has ended: its tables and its records file follow, where the server is still there; it is waited for
        as long as the settings allow."""
        if self._reaches():
            self._tell(self._keep_tables, ends=False)
            self._tell(self._keep_records, ends=False)
        self._tell(lambda run: run.finish(exit_code=exit_code))

    def _reaches(self) -> bool:
        """Whether more than the history may be handed over: W&B asks the server of it, and would wait for minutes."""
        if self._run is None or self._run.offline:
            return True
        import wandb

        trouble = why_offline(wandb, self._run.settings.finish_timeout or 8)
        if trouble and self._strict:
            raise TimeoutError(trouble)
        return not trouble

    def _keep_tables(self, run: Any) -> None:
        tables = {f"samples/{task}": _table(rows) for task, rows in self._samples.items() if rows}
        if tables:
            run.log(tables, step=self._step)

    def _keep_records(self, run: Any) -> None:
        import wandb

        if not self._records_file.exists():
            return
        artifact = wandb.Artifact(artifact_name("records", self._records_file.stem), type="records")
        artifact.add_file(str(self._records_file))
        run.log_artifact(artifact)

    def _tell(self, act: Callable[[Any], object], ends: bool = True) -> None:
        """Tell the run something; `ends`: where that goes wrong, nothing more is told."""
        if self._run is None:
            return
        try:
            act(self._run)
        except TimeoutError:
            if self._strict:
                raise
            folder = self._records_file.parent
            if folder not in _offline:
                _offline.add(folder)
                _warn(
                    "W&B did not take all of this run in time: it is on disk, and those to come are kept there; "
                    f"to send them: wandb sync {folder}/wandb"
                )
        except Exception as error:
            if self._strict:
                raise
            # Of whatever kind: the work is worth more than its curves.
            self._run = None if ends else self._run
            if not self._complained:
                _warn(f"W&B stopped taking this run ({one_line(error)}); the records are complete without it")
            self._complained = True


def init(
    wandb: ModuleType,
    wanted: WandbSettings,
    *,
    mode: str,
    name: str,
    config: Mapping[str, Any],
    folder: Path,
    run_id: str | None = None,
    job_type: str = "job",
) -> Any:
    """A W&B run whose curves stand over the context. Raises wandb's errors, and those of the system."""
    settings = wandb.Settings(
        init_timeout=wanted.timeout,
        finish_timeout=wanted.timeout,
        finish_timeout_raises=True,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=wanted.system_metrics is None,
        x_stats_sampling_interval=wanted.system_metrics or 15,
    )
    run = wandb.init(
        mode=mode,
        project=wanted.project,
        entity=wanted.entity,
        group=wanted.group or folder.resolve().name,
        job_type=job_type,
        name=name,
        id=run_id,
        resume="allow" if run_id else None,
        tags=list(wanted.tags),
        config=flat(config),
        dir=folder,
        settings=settings,
        reinit="create_new",  # a run that the caller has open is left alone
    )
    run.define_metric("context")
    run.define_metric("*", step_metric="context")
    return run


def why_offline(wandb: ModuleType, timeout: float) -> str:
    """Why there is no use in trying, or nothing. wandb itself would wait, or ask, for minutes."""
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode} is set"
    try:
        if not wandb.login(prompt=False, verify=False):
            return "no account is set up here; `wandb login` does it"
    except Exception as error:  # noqa: BLE001 - a key that is none
        return one_line(error)
    proxies = ("https_proxy", "http_proxy", "all_proxy")
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return ""  # the proxy knows
    url = urlsplit(wandb.setup().settings.base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout).close()
    except OSError as error:
        return f"{url.hostname}: {error}"
    return ""


def _kept_id(folder: Path, name: str) -> str:
    """The id of the job's run, made once and kept beside its records."""
    file = folder / "wandb" / f"{name}.id"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x") as new:
            new.write(new_id())
    except FileExistsError:
        pass
    return file.read_text() or new_id()


def new_id() -> str:
    """An id for a run, as W&B makes them: eight letters and digits."""
    return secrets.token_hex(4)


def artifact_name(kind: str, name: str) -> str:
    """A name that W&B takes: at most 128 letters, digits, dashes, dots and underscores."""
    return re.sub(r"[^\w.-]+", "-", f"{kind}-{name}")[:128]


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns: list[Any] = list(dict.fromkeys(key for row in rows for key in row))
    # A cell of several types would be refused; a number that is none is left empty.
    return wandb.Table(
        columns=columns, data=[[_finite(row.get(c)) for c in columns] for row in rows], allow_mixed_types=True
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _warn(message: str) -> None:
    warnings.warn(message, TrackerWarning, stacklevel=3)
