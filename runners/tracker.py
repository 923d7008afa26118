"""Curves of a job's records in Weights & Biases: one run a job, the context on its x-axis.

Nothing depends on it: records are written before they are tracked, and where the server cannot be reached the run is
kept on disk instead, from where `wandb sync` sends it.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Record

NAMES = ("none", "wandb")
MODES = ("offline", "online")


class TrackerWarning(UserWarning):
    """Curves are not where they were asked for. Records are complete."""


class WandbSettings(BaseModel):
    """The keys of configs/tracker/wandb.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: str = "offline"
    project: str = "kvfrontier"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    timeout: float = 8


class Tracker:
    """Where a job's records are shown. This one shows them nowhere."""

    def log(self, record: Record) -> None:
        """Show one record."""


@contextmanager
def track(settings: Mapping[str, Any], *, name: str, config: Mapping[str, Any], folder: Path) -> Iterator[Tracker]:
    """The tracker of one job. `settings` is the configuration group `tracker`; `name` the job's; `config` what its
    cells share; `folder` the results, where a run is kept. Raises UsageError for settings that do not exist."""
    kind, wanted = parse(settings)
    if kind == "none":
        yield Tracker()
        return
    tracker = WandbTracker(_begin(wanted, name=name, config=config, folder=folder))
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


def parse(settings: Mapping[str, Any]) -> tuple[str, WandbSettings]:
    """The tracker's name and its settings. Raises UsageError, before any work."""
    rest = dict(settings)
    kind = rest.pop("name", None)
    if kind not in NAMES:
        raise UsageError(f"there is no tracker {kind!r}; choose one of: {', '.join(NAMES)}")
    if kind == "none":
        return kind, WandbSettings()
    try:
        wanted = WandbSettings(**rest)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"tracker.{key}={first['input']!r}: {first['msg']}") from error
    if wanted.mode not in MODES:
        raise UsageError(f"tracker.mode={wanted.mode!r}: choose one of: {', '.join(MODES)}; or tracker=none")
    return kind, wanted


def metrics(record: Record) -> dict[str, int | float | str]:
    """What is shown of a record, by names that stay: context, batch, seed, `memory/peak`, `time/prefill/median`,
    `quality/needle/accuracy`, its interval as `.../low` and `.../high`. What was not measured is left out."""
    shown: dict[str, int | float | str] = {
        "context": record.cell.context,
        "batch": record.cell.batch,
        "seed": record.cell.seed,
        "record": record.id,
        "status": record.status,
    }
    memory, time = record.memory, record.time
    shown |= _numbers("memory", memory.model_dump())
    if memory.live_payload is not None and memory.live_slack is not None:
        shown["memory/live"] = memory.live_payload + memory.live_slack
    if memory.analytic_payload is not None and memory.analytic_slack is not None:
        shown["memory/analytic"] = memory.analytic_payload + memory.analytic_slack
    if memory.peak is not None and memory.weights is not None:
        shown["memory/peak_less_weights"] = memory.peak - memory.weights
    shown |= _numbers("time", time.model_dump())
    if record.search is not None:
        sizes = {"found": record.search.found, "predicted": record.search.predicted}
        shown |= _numbers(f"search/{record.search.kind}", sizes)
        shown["context"] = record.cell.context or record.search.found or 0
    for name, score in record.quality.scores.items():
        shown |= _numbers(f"quality/{_task(record)}/{name}", {"low": score.low, "high": score.high})
        shown[f"quality/{_task(record)}/{name}"] = score.value
    for block, status in (("quality", record.quality.status), ("memory", memory.status), ("time", time.status)):
        shown[f"{block}/status"] = status
    return shown


def _task(record: Record) -> str:
    """Scores of a prompt that was compressed with its question are another curve."""
    task = record.cell.task
    compress_at = task.get("compress_at", "context")
    return task["name"] if compress_at == "context" else f"{task['name']}_{compress_at}"


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, int | float | str]:
    """The numbers among nested values, by their path."""
    found: dict[str, int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}/{key}"] = value
    return found


class WandbTracker(Tracker):
    """One W&B run. Whatever goes wrong with it is said once, and stops nothing."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._tasks: dict[str, str] = {}

    def log(self, record: Record) -> None:
        shown = metrics(record)
        # Another task hash may not stand in the same curve: the same task with other parameters.
        task, task_hash = _task(record), record.quality.task_hash
        if self._tasks.setdefault(task, task_hash) != task_hash:
            own = f"quality/{task}-{task_hash[:4]}/"
            shown = {key.replace(f"quality/{task}/", own): value for key, value in shown.items()}
        self._tell(lambda run: run.log(shown))

    def finish(self, exit_code: int) -> None:
        """The job has ended; wait for the server no longer than the settings allow."""
        self._tell(lambda run: run.finish(exit_code=exit_code))

    def _tell(self, act: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # noqa: BLE001 - of whatever kind: the work is worth more than its curves
            self._run = None
            _warn(f"W&B stopped taking this run ({_one_line(error)}); the records are complete without it")


def _begin(wanted: WandbSettings, *, name: str, config: Mapping[str, Any], folder: Path) -> Any:
    """A run, offline where the server cannot be reached in time; None where even that fails."""
    import wandb  # a second, and only where it is asked for

    def begin(mode: str) -> Any:
        return _init(wandb, wanted, mode, name, config, folder)

    if wanted.mode == "online":
        trouble = _why_offline(wandb, wanted.timeout)
        if not trouble:
            try:
                return begin("online")
            except Exception as error:  # noqa: BLE001 - the server's fault, the network's or the account's
                trouble = _one_line(error)
        _warn(f"W&B is out of reach ({trouble}): this run is kept on disk; to send it: wandb sync {folder / 'wandb'}")
    try:
        return begin("offline")
    except Exception as error:  # noqa: BLE001 - as above
        _warn(f"W&B cannot keep this run ({_one_line(error)}); the records are complete without it")
        return None


def _warn(message: str) -> None:
    warnings.warn(message, TrackerWarning, stacklevel=3)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _init(
    wandb: ModuleType, wanted: WandbSettings, mode: str, name: str, config: Mapping[str, Any], folder: Path
) -> Any:
    settings = wandb.Settings(
        init_timeout=wanted.timeout,
        finish_timeout=wanted.timeout,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        # It would sample the machine while we time it.
        x_disable_stats=True,
        x_disable_meta=True,
    )
    run = wandb.init(
        mode=mode,
        project=wanted.project,
        entity=wanted.entity,
        group=wanted.group or folder.resolve().name,
        name=name,
        tags=list(wanted.tags),
        config=dict(config),
        dir=folder,
        settings=settings,
        reinit="create_new",  # a run that the caller has open is left alone
    )
    run.define_metric("context")
    run.define_metric("*", step_metric="context")
    return run


def _why_offline(wandb: ModuleType, timeout: float) -> str:
    """Why there is no use in trying, or nothing. wandb itself would wait, or ask, for minutes."""
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode} is set"
    if not wandb.login(prompt=False, verify=False):
        return "no account is set up here; `wandb login` does it"
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
