"""From overrides to configurations: what Hydra composes, and what it says where it cannot, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kvfrontier.runners.errors import UsageError, unknown

CONFIGS = "kvfrontier.configs"


@cache
def register() -> None:
    """Make this package known to Hydra: the sweeper, and a node for every registered method and task.

    The node `method/base/NAME` holds the parameters at their defaults; the YAMLs of configs/method build on it. A
    method that has no YAML is chosen by its name alone (`method=NAME`). Tasks and the axes of `cached` the same.
    """
    # Hydra's own search comes first: it runs the files of plug-ins that it finds anew, and misses editable ones.
    plugins = Plugins.instance()
    from hydra_plugins.kvfrontier.sweeper import CellSweeper  # isort: skip
    from kvfrontier.methods import registry
    from kvfrontier.runners import tasks

    plugins.register(CellSweeper)
    store = ConfigStore.instance()
    nodes = {"method": {n: {**e.parameters, "layers": None} for n, e in registry.entries().items()}}
    nodes["task"] = {n: tasks.describe(n)["parameters"] for n in tasks.names()}
    for axis in registry.AXES:
        nodes[f"method/{axis}"] = {n: registry.defaults(c) for n, c in registry.components(axis).items()}
    for group, choices in nodes.items():
        written = _choices_with_a_file(group)
        for name, parameters in choices.items():
            node = {"name": name, **parameters}
            store.store(group=f"{group}/base", name=name, node=node)
            if name not in written:
                store.store(group=group, name=name, node=node)


def _choices_with_a_file(group: str) -> set[str]:
    return {f.name.removesuffix(".yaml") for f in files(CONFIGS).joinpath(group).iterdir() if f.name.endswith(".yaml")}


@dataclass(frozen=True)
class Composed:
    """A cell's configuration, resolved, without Hydra's own node; and which choice each group took."""

    config: dict[str, Any]
    choices: dict[str, Any]

    def value(self, key: str) -> str:
        """The choice of a group or the value of a key. Raises UsageError where there is neither."""
        if key in self.choices:
            return str(self.choices[key])
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                raise unknown("group or key", key, [*self.choices, *_keys(self.config)])
            node = node[part]
        return str(node)


class Composer:
    """Composes the configurations of cells.

    fixed    overrides that all cells share
    search   further places to look for YAMLs, as `file://DIR`
    """

    def __init__(self, fixed: Sequence[str] = (), search: Sequence[str] = ()):
        self.fixed = list(fixed)
        self.search = list(search)
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any]]] = {}
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            self.groups = {g for g in loader.list_groups("") if g != "hydra"}
            self.groups |= {f"method/{axis}" for axis in loader.list_groups("method") if axis != "base"}

    def __call__(self, overrides: Sequence[str] = ()) -> Composed:
        """The configuration of one cell. Raises UsageError, with the nearest real name for what does not exist."""
        # A composition costs 70 ms, a changed value 0.1: only another choice of a group is composed anew.
        parsed = parse(overrides)
        values = [o for o in parsed if self._is_value(o)]
        choices = tuple(str(o.input_line) for o in parsed if not self._is_value(o))
        try:
            if choices not in self._composed:
                self._composed[choices] = self._compose([*self.fixed, *choices])
            config, chosen = self._composed[choices]
            config = config.copy()
            for o in values:
                OmegaConf.update(config, o.key_or_group, o.value(), merge=True)
            return Composed(_plain(config), chosen)
        except OmegaConfBaseException:
            # Composed in full, the same fault is found again, and named.
            config, chosen = self._compose([*self.fixed, *overrides])
            return Composed(_plain(config), chosen)

    def keys(self) -> list[str]:
        """Every group and key that can be overridden."""
        config, _ = self._compose(self.fixed)
        return sorted({*self.groups, *_keys(_plain(config))})

    def _is_value(self, override: Override) -> bool:
        return (
            override.type == OverrideType.CHANGE and override.key_or_group not in self.groups and not override.package
        )

    def _compose(self, overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
        try:
            with _hydra():
                config = compose("config", overrides=[*_searching(self.search), *overrides], return_hydra_config=True)
                chosen = dict(config.hydra.runtime.choices)
                with open_dict(config):
                    del config["hydra"]
                return config, chosen
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides, self.search) from error


@cache
def choice(group: str, name: str) -> dict[str, Any]:
    """The parameters of one choice of a group."""
    register()
    return Composer()([f"{group}={name}"]).config[group]


@cache
def component(axis: str, name: str) -> dict[str, Any]:
    """The parameters of one choice of an axis of `cached`."""
    register()
    return Composer()(["method=cached", f"method/{axis}={name}"]).config["method"][axis]


def comment(group: str, choice: str) -> str:
    """The first line of a choice's YAML, if it is a comment: it says what the choice is."""
    file = files(CONFIGS).joinpath(group, f"{choice}.yaml")
    first = file.read_text(encoding="utf-8").split("\n")[0] if file.is_file() else ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def search_path(hydra: Any) -> list[str]:
    """Where else the command looks for YAMLs (--config-dir, hydra.searchpath), from its `hydra` node."""
    known = ("hydra", "main", "schema")
    return [f"{s.schema}://{s.path}" for s in hydra.runtime.config_sources if s.provider not in known]


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them. Raises UsageError."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise explain(error, overrides) from error


def explain(error: Exception, overrides: Sequence[str], search: Sequence[str] = ()) -> UsageError:
    """Hydra's error as one sentence that names the nearest real key or choice."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown(group, choice, error.options or names(group, search))
    if isinstance(error, OverrideParseException):
        return UsageError(f"cannot read {error.override!r}: {_first_line(error)}")
    named = re.match(r"Could not override '([^'@]+)'", str(error))
    if named and not named[1].startswith("hydra."):
        key = named[1]
        rest = [o for o in overrides if o.lstrip("+~").partition("=")[0] != key]
        # What is left may have faults of its own; the defaults then serve for the names.
        for fixed in (rest, []):
            with suppress(UsageError):
                return unknown("key", key, _within(key, Composer(fixed, search).keys()))
    return UsageError(_first_line(error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error))


def _within(key: str, keys: list[str]) -> list[str]:
    """Keys of the same node, where there is one: `method.windw` is compared with `method.window`."""
    node = key.rpartition(".")[0]
    return [k for k in keys if k.rpartition(".")[0] == node] or keys


def names(group: str, search: Sequence[str] = ()) -> list[str]:
    """The choices of a group. `search` as of `Composer`."""
    with _hydra():
        return GlobalHydra.instance().config_loader().get_group_options(group, overrides=_searching(search))


def _keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _searching(search: Sequence[str]) -> list[str]:
    return [f"hydra.searchpath=[{','.join(search)}]"] if search else []


def _first_line(error: BaseException) -> str:
    """An error's first two lines on one: Hydra says what is wrong in the one, and what to do in the other."""
    return " ".join(line.strip() for line in str(error).strip().split("\n")[:2])


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's compose API, also from inside a job or a sweeper, which run under a Hydra of their own."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIGS, job_name="kvfrontier", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
