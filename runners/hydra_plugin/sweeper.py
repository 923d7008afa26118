"""Hydra's sweeper of kvfrontier: expands a sweep into cells, drops those that are recorded before anything is
launched, under every launcher, and launches the rest as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig, OmegaConf

from kvfrontier.runners.errors import UsageError


class CellSweeper(BasicSweeper):
    """configs/hydra/sweeper/kvfrontier.yaml says what the parameters are."""

    def __init__(self, params: DictConfig, exclude: Sequence[Any], dry_run: bool, json_output: bool):
        super().__init__(max_batch_size=None)
        self.axes: Mapping[str, Any] = OmegaConf.to_container(params)  # pyright: ignore[reportAttributeAccessIssue]
        self.exclude: list[Any] = [OmegaConf.to_container(e) if OmegaConf.is_config(e) else e for e in exclude]
        self.dry_run = dry_run
        self.json_output = json_output

    def sweep(self, arguments: list[str]) -> Any:
        """Run every cell of the sweep that is not recorded. Raises UsageError before any work, and CellsFailed after
        all of it."""
        from kvfrontier.runners.compose import search_path
        from kvfrontier.runners.sweep.run import run

        config, launcher = self.config, self.launcher
        assert config is not None
        assert launcher is not None
        return run(
            [*(f"{axis}={_values(axis, values)}" for axis, values in self.axes.items()), *arguments],
            exclude=self.exclude,
            results=Path(config.results),
            search=search_path(config.hydra),
            launch=lambda jobs: launcher.launch(jobs, initial_job_idx=0),
            in_process=config.hydra.runtime.choices["hydra/launcher"] == "basic",
            dry_run=self.dry_run,
            json_output=self.json_output,
        )


def _values(axis: str, values: Any) -> str:
    """The values of an axis as Hydra writes a sweep: `a,b`."""
    if not isinstance(values, (list, tuple)):
        return str(values)
    if not values:
        raise UsageError(f"the sweep is empty: its axis {axis} has no values; see hydra.sweeper.params")
    return ",".join("null" if value is None else str(value) for value in values)
