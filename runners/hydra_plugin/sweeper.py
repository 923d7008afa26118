"""Hydra's sweeper of kvfrontier: expands a sweep into cells, drops those that are recorded before anything is
launched, under every launcher, and launches the rest as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig, OmegaConf

from kvfrontier.runners.errors import UsageError

#: Launchers whose jobs run on the machine that launches them.
HERE = ("basic", "joblib", "submitit_local")


class CellSweeper(BasicSweeper):
    """configs/hydra/sweeper/kvfrontier.yaml says what the parameters are."""

    def __init__(
        self,
        params: DictConfig,
        exclude: Sequence[Any],
        dry_run: bool,
        json_output: bool,
        device_name: str | None = None,
        zip: Sequence[Any] = (),
        predict: bool = False,
    ):
        super().__init__(max_batch_size=None)
        self.axes: Mapping[str, Any] = OmegaConf.to_container(params)  # pyright: ignore[reportAttributeAccessIssue]
        self.exclude, self.zips = _plain(exclude), _plain(zip)
        self.dry_run, self.predict = dry_run, predict
        self.json_output = json_output
        self.device_name = device_name

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Hydra's, after a look at whether the launcher is there. Raises UsageError, naming the extra to install."""
        choice = config.hydra.runtime.choices["hydra/launcher"]
        package, _, _ = str(config.hydra.launcher.get("_target_", "")).rpartition(".")
        if package.startswith("hydra_plugins.") and not _installed(package):
            extra = choice.partition("_")[0]
            raise UsageError(f"hydra/launcher={choice} needs an extra: pip install 'kvfrontier[{extra}]'")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every cell of the sweep that is not recorded. Raises UsageError before any work, and CellsFailed after
        all of it."""
        from kvfrontier.runners.compose import search_path
        from kvfrontier.runners.sweep.cells import Away
        from kvfrontier.runners.sweep.run import run

        config, launcher = self.config, self.launcher
        assert config is not None
        assert launcher is not None
        choice = config.hydra.runtime.choices["hydra/launcher"]
        return run(
            [*(f"{axis}={_values(axis, values)}" for axis, values in self.axes.items()), *arguments],
            exclude=self.exclude,
            results=Path(config.results),
            search=search_path(config.hydra),
            launch=lambda jobs: launcher.launch(jobs, initial_job_idx=0),
            in_process=choice == "basic",
            away=None if choice in HERE else Away(self.device_name),
            dry_run=self.dry_run or self.predict,
            json_output=self.json_output,
            predict=self.predict,
            zips=self.zips,
            shard=OmegaConf.select(config, "sweep.shard"),
            worker=config.worker,
        )


def _plain(entries: Sequence[Any]) -> list[Any]:
    return [OmegaConf.to_container(e) if OmegaConf.is_config(e) else e for e in entries]


def _values(axis: str, values: Any) -> str:
    """The values of an axis as Hydra writes a sweep: `a,b`."""
    if not isinstance(values, (list, tuple)):
        return str(values)
    if not values:
        raise UsageError(f"the sweep is empty: its axis {axis} has no values; see hydra.sweeper.params")
    return ",".join("null" if value is None else str(value) for value in values)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # one that it lies in
        return False
