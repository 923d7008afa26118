"""Event files that TensorBoard shows: one run a job, its steps the contexts in tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvfrontier.runners.record import Record
from kvfrontier.runners.tracker import TensorboardSettings, Tracker
from kvfrontier.runners.tracker.metrics import facts, flat, numbers


def begin(wanted: TensorboardSettings, *, name: str, config: Mapping[str, Any], folder: Path) -> TensorboardTracker:
    """A job's event files, below `wanted.folder` or the results folder."""
    from torch.utils.tensorboard import SummaryWriter

    where = Path(wanted.folder) if wanted.folder else folder / "tensorboard"
    return TensorboardTracker(SummaryWriter(str(where / name)), flat(config))


class TensorboardTracker(Tracker):
    """One writer of event files."""

    def __init__(self, writer: Any, config: Mapping[str, Any]) -> None:
        self._writer, self._config = writer, config

    def log(self, record: Record) -> None:
        context = int(record.cell.context or (record.search and record.search.found) or 0)
        if self._config:
            told = json.dumps({**self._config, **facts(record)}, indent=1)
            self._writer.add_text("config", f"```json\n{told}\n```")
            self._config = {}
        for key, value in numbers(record).items():
            self._writer.add_scalar(key, value, global_step=context)
        self._writer.flush()

    def curve(self, name: str, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"train/{name}/{key}", value, global_step=int(values["step"]))

    def finish(self, exit_code: int) -> None:
        self._writer.close()
