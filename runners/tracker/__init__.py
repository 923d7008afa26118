"""Curves of a job's records in a tracker of experiments: one run a job, the context on its x-axis.

    metrics.py       what is shown of a record, by names that stay
    wandb.py         Weights & Biases, online or offline
    sync.py          `kvfrontier wandb-sync`: records that exist, replayed into a project
    tensorboard.py   event files for TensorBoard (extra: tensorboard)

Nothing depends on a tracker: records are written before they are tracked, and what goes wrong with one is said once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Record

MODES = ("offline", "online")


class TrackerWarning(UserWarning):
    """Curves are not where they were asked for. Records are complete."""


class Settings(BaseModel):
    """The keys of a YAML in configs/tracker."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WandbSettings(Settings):
    """configs/tracker/wandb.yaml says what they are."""

    mode: str = "offline"
    project: str = "kvfrontier"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    timeout: float = 8
    samples: bool = True
    system_metrics: float | None = 15


class TensorboardSettings(Settings):
    """configs/tracker/tensorboard.yaml says what they are."""

    folder: str | None = None


#: A tracker's name, and the settings that it has.
KINDS: dict[str, type[Settings]] = {
    "none": Settings,
    "wandb": WandbSettings,
    "tensorboard": TensorboardSettings,
}
#: Trackers whose libraries are extras of the same name, and what is imported of those.
_EXTRAS = {"tensorboard": "tensorboard"}


class Tracker:
    """Where a job's records are shown. This one shows them nowhere."""

    def log(self, record: Record) -> None:
        """Show one record."""

    def curve(self, name: str, values: Mapping[str, float]) -> None:
        """Show a point of a training's curve of this name; `step`, one of the values, is its place."""

    def finish(self, exit_code: int) -> None:
        """The job has ended, by an error where `exit_code` is not 0."""


@contextmanager
def track(settings: Mapping[str, Any], *, name: str, config: Mapping[str, Any], folder: Path) -> Iterator[Tracker]:
    """The tracker of one job. `settings` is the configuration group `tracker`; `name` the job's, and of its records
    file in `folder`, the results; `config` what its cells share. Raises UsageError for settings that do not exist."""
    tracker = Careful(lambda: _open(*parse(settings), name, config, folder))
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


class Careful(Tracker):
    """Another tracker, of which whatever goes wrong is said once, and stops nothing but it. `begin` makes it; its
    UsageError is the caller's."""

    def __init__(self, begin: Callable[[], Tracker]) -> None:
        self._tracker: Tracker | None = None
        try:
            self._tracker = begin()
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind: the work is worth more than its curves
            self._say(error)

    def log(self, record: Record) -> None:
        self._tell(lambda tracker: tracker.log(record))

    def curve(self, name: str, values: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.curve(name, values))

    def finish(self, exit_code: int) -> None:
        self._tell(lambda tracker: tracker.finish(exit_code))

    def _tell(self, act: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            act(self._tracker)
        except Exception as error:  # noqa: BLE001 - as above
            self._tracker = None
            self._say(error)

    def _say(self, error: Exception) -> None:
        message = f"the tracker stopped ({one_line(error)}); the records are complete without it"
        warnings.warn(message, TrackerWarning, stacklevel=4)


def _open(kind: str, wanted: Settings, name: str, config: Mapping[str, Any], folder: Path) -> Tracker:
    if kind == "none":
        return Tracker()
    # A second or more each, and only where it is asked for.
    opened: Callable[..., Tracker] = import_module(f"kvfrontier.runners.tracker.{kind}").begin
    return opened(wanted, name=name, config=config, folder=folder)


def parse(settings: Mapping[str, Any]) -> tuple[str, Settings]:
    """The tracker's name and its settings. Raises UsageError, before any work."""
    rest = dict(settings)
    kind = rest.pop("name", None)
    if kind not in KINDS:
        raise UsageError(f"there is no tracker {kind!r}; choose one of: {', '.join(KINDS)}")
    try:
        wanted = KINDS[kind](**({} if kind == "none" else rest))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"tracker.{key}={first['input']!r}: {first['msg']}") from error
    if isinstance(wanted, WandbSettings) and wanted.mode not in MODES:
        raise UsageError(f"tracker.mode={wanted.mode!r}: choose one of: {', '.join(MODES)}; or tracker=none")
    if kind in _EXTRAS and find_spec(_EXTRAS[kind]) is None:
        raise UsageError(f"tracker={kind} needs an extra: pip install 'kvfrontier[{kind}]'")
    return kind, wanted


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, or what kind it is."""
    return " ".join(str(error).split()) or type(error).__name__
