"""From overrides to configurations: what Hydra composes, and what it says where it cannot, in one sentence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
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
#: Groups whose choices are not YAMLs alone: `register` brings the others.
_REGISTERED = ("method", "task")


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
    _register_resolvers()
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


def _register_resolvers() -> None:
    """What configs/hydra/launcher asks for: how many GPUs this machine shows, and how many a job needs."""

    def visible_gpus() -> int:
        from kvfrontier.runners.placement import visible

        return len(visible())

    def gpus_of_a_job(device: str) -> int | None:
        wanted = device.startswith("cuda") or (device == "auto" and visible_gpus())
        return 1 if wanted else None

    OmegaConf.register_new_resolver("jobs_at_once", lambda: max(1, visible_gpus()), replace=True)
    OmegaConf.register_new_resolver("gpus_of_a_job", gpus_of_a_job, replace=True)


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

    A composition takes Hydra 70 ms, whatever differs. So the first cell is composed in full, and of the others only
    what they choose: a group's node is taken from its choice, and values are set. This holds where a choice fills its
    group's node and nothing else, which is seen; what reaches further is composed in full.
    """

    def __init__(self, fixed: Sequence[str] = (), search: Sequence[str] = ()):
        self.fixed = list(fixed)
        self.search = list(search)
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            self.groups = {g for g in loader.list_groups("") if g != "hydra"}
            self.groups |= {f"method/{axis}" for axis in loader.list_groups("method") if axis != "base"}
        self._first: _Whole | None = None
        self._whole: dict[tuple[str, ...], _Whole] = {}
        self._alone: dict[tuple[str, ...], _Node] = {}
        self._nodes: dict[tuple[str, ...], _Node | None] = {}

    def prepare(self, overrides: Iterable[str]) -> None:
        """Compose at once the choices among `overrides`, those of the cells to come: one at a time takes longer."""
        chosen = [(o.key_or_group, str(o.value())) for o in parse(list(overrides)) if self._is_choice(o)]
        for group in {group for group, _ in chosen if "/" not in group}:
            # Where one does not exist, it is found again, and said, when its cell is composed.
            with suppress(HydraException, OmegaConfBaseException):
                names = list(dict.fromkeys(name for g, name in chosen if g == group))
                for name, node in _alone(group, names, self.search).items():
                    self._alone[(f"{group}={name}",)] = node

    def __call__(self, overrides: Sequence[str] = ()) -> Composed:
        """The configuration of one cell. Raises UsageError, with the nearest real name for what does not exist."""
        parsed = parse(overrides)
        values = [o for o in parsed if self._is_value(o)]
        try:
            whole = self._of(tuple(str(o.input_line) for o in parsed if not self._is_value(o)))
            return Composed(_told(whole.tree, values), whole.choices)
        except OmegaConfBaseException:
            # Composed in full, the same fault is found again, and named.
            whole = self._compose([*self.fixed, *overrides])
            return Composed(_told(whole.tree), whole.choices)

    def keys(self) -> list[str]:
        """Every group and key that can be overridden."""
        return sorted({*self.groups, *_keys(_told(self._compose(self.fixed).tree))})

    def _is_value(self, override: Override) -> bool:
        return (
            override.type == OverrideType.CHANGE and override.key_or_group not in self.groups and not override.package
        )

    def _is_choice(self, override: Override) -> bool:
        return override.type == OverrideType.CHANGE and override.key_or_group in self.groups and not override.package

    def _of(self, choices: tuple[str, ...]) -> _Whole:
        """The configuration of these choices, and of what is fixed."""
        if choices not in self._whole:
            found = self._assembled(choices) or self._compose([*self.fixed, *choices])
            self._first = self._first or replace(found, asked=choices)
            self._whole[choices] = found
        return self._whole[choices]

    def _assembled(self, choices: tuple[str, ...]) -> _Whole | None:
        """The first configuration, with the nodes of other choices; None where that does not do."""
        first = self._first
        if first is None:
            return None
        ours, others = self._by_node(choices), self._by_node(first.asked)
        if ours is None or others is None or ours.keys() != others.keys():
            return None
        tree, taken = dict(first.tree), dict(first.choices)
        for name in (name for name in ours if ours[name] != others[name]):
            node = self._node(name, ours[name], others[name])
            if node is None:
                return None
            tree[name] = node.tree
            taken = {g: c for g, c in taken.items() if _node_of(g) != name} | node.choices
        return _Whole(tree, taken)

    def _by_node(self, choices: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
        """Choices by the node that they fill: those of `method` and of `method/store` fill one."""
        found: dict[str, tuple[str, ...]] = {}
        for o in parse(choices):
            if not self._is_choice(o):
                return None
            node = o.key_or_group.split("/")[0]
            found[node] = (*found.get(node, ()), str(o.input_line))
        return found

    def _node(self, name: str, choices: tuple[str, ...], others: tuple[str, ...]) -> _Node | None:
        """A node as `choices` fill it, with the values that are fixed; `others` fill it in the first configuration."""
        if choices not in self._nodes:
            self._nodes[choices] = self._filled(name, choices, others)
        return self._nodes[choices]

    def _filled(self, name: str, choices: tuple[str, ...], others: tuple[str, ...]) -> _Node | None:
        first = self._first
        assert first is not None
        fixed = [o for o in parse(self.fixed) if _node_of(o.key_or_group) == name]
        alone, usual = self._alone.get(choices), self._alone.get(others)
        if alone and usual and all(map(self._is_value, fixed)):
            ours, theirs = (_told({name: node.tree}, fixed, resolve=False)[name] for node in (alone, usual))
            # If the first configuration has what its own choice gives, nothing else has a say in this node.
            if theirs == first.tree[name]:
                return _Node(ours, alone.choices)
        whole = self._compose([*self.fixed, *(o for o in first.asked if o not in others), *choices])
        if {**whole.tree, name: None} != {**first.tree, name: None}:
            return None
        return _Node(whole.tree[name], {g: c for g, c in whole.choices.items() if _node_of(g) == name})

    def _compose(self, overrides: list[str]) -> _Whole:
        try:
            with _hydra():
                config = compose("config", overrides=[*_searching(self.search), *overrides], return_hydra_config=True)
                chosen = dict(config.hydra.runtime.choices)
                with open_dict(config):
                    del config["hydra"]
                return _Whole(_tree(config), chosen)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides, self.search) from error


@dataclass(frozen=True)
class _Whole:
    """A configuration as Hydra composes it, its interpolations still to come; the choice of each group; and the choices
    that were asked for."""

    tree: dict[str, Any]
    choices: dict[str, Any]
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Node:
    """What the choices of a group put under its name, and the choices of groups below."""

    tree: Any
    choices: dict[str, Any]


def _node_of(key: str) -> str:
    """The node at the root that a key or a group belongs to: `method` of `method.budget` and of `method/store`."""
    return re.split("[./@]", key)[0]


def _told(tree: Mapping[str, Any], values: Sequence[Override] = (), resolve: bool = True) -> dict[str, Any]:
    """A configuration with values set and interpolations resolved. Raises OmegaConf's errors."""
    if resolve and not _has_interpolation(tree):
        # Without OmegaConf, which takes milliseconds for what is done here in microseconds.
        with suppress(_NotPlain):
            plain = dict(tree)
            for o in values:
                _set(plain, o.key_or_group.split("."), o.value())
            return plain
    config = OmegaConf.create(dict(tree))
    OmegaConf.set_struct(config, True)
    for o in values:
        OmegaConf.update(config, o.key_or_group, o.value(), merge=True)
    return _plain(config) if resolve else _tree(config)


class _NotPlain(Exception):
    """Setting this value is more than replacing one."""


def _set(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Replace a plain value by another, in copies of the nodes on its way."""
    there = node.get(path[0], _NotPlain)
    if len(path) > 1 and isinstance(there, dict):
        node[path[0]] = dict(there)
        _set(node[path[0]], path[1:], value)
        return
    merges = len(path) > 1 or isinstance(there, (dict, list, type)) or not isinstance(value, int | float | str | None)
    if merges or _has_interpolation(value):
        raise _NotPlain
    node[path[0]] = value


def _has_interpolation(tree: Any) -> bool:
    """Whether something in a configuration is said elsewhere, or not yet (???)."""
    if isinstance(tree, Mapping):
        return any(map(_has_interpolation, tree.values()))
    if isinstance(tree, list):
        return any(map(_has_interpolation, tree))
    return isinstance(tree, str) and ("${" in tree or tree == "???")


def _tree(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain data, its interpolations as they are written."""
    tree = OmegaConf.to_container(config)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _alone(group: str, names: Sequence[str], search: Sequence[str] = ()) -> dict[str, _Node]:
    """Choices of a group, in one composition, without those that reach beyond their group's node.

    Raises Hydra's errors.
    """
    with _hydra():
        places = [f"+{group}@c{i}={name}" for i, name in enumerate(names)]
        # Without a primary configuration, these are all that is composed.
        config = compose(None, overrides=[*_searching(search), *places], return_hydra_config=True)
        tree, taken = _tree(config), dict(config.hydra.runtime.choices)
        if set(tree) != {"hydra", *(f"c{i}" for i in range(len(names)))}:
            return {}
        loader = GlobalHydra.instance().config_loader()
        found = {}
        for i, name in enumerate(names):
            below = {}
            for key, choice in taken.items():
                asked, _, place = key.partition("@")
                if place.split(".")[0] == f"c{i}":
                    where = f"{group}{place.removeprefix(f'c{i}')}".replace("/", ".")
                    below[asked if where == asked.replace("/", ".") else f"{asked}@{where}"] = choice
            if not _has_a_package(loader, f"{group}/{name}"):
                found[name] = _Node(tree[f"c{i}"], below)
        return found


def _has_a_package(loader: Any, path: str) -> bool:
    """Whether a YAML says itself where its content goes (`# @package _global_`), or may: of another's search path."""
    source = next((s for s in loader.get_sources() if s.is_config(path)), None)
    return source is None or bool(source.load_config(path).header.get("package"))


def choices(group: str, *named: str) -> dict[str, dict[str, Any]]:
    """The parameters of every choice of a group, or of an axis of `cached` (`method/store`), by name; or of those that
    are `named`."""
    if group.split("/")[0] in _REGISTERED:
        register()
    return {name: node.tree for name, node in _alone(group, named or names(group)).items()}


@cache
def choice(group: str, name: str) -> dict[str, Any]:
    """The parameters of one choice of a group."""
    register()
    return Composer()([f"{group}={name}"]).config[group]


def comment(group: str, choice: str) -> str:
    """What a choice's YAML begins with, if that is a comment: it says what the choice is."""
    file = files(CONFIGS).joinpath(group, f"{choice}.yaml")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return " ".join(line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x.startswith("#"), lines))


def search_path(hydra: Any) -> list[str]:
    """Where else the command looks for YAMLs (--config-dir, hydra.searchpath), from its `hydra` node."""
    known = ("hydra", "main", "schema")
    return [f"{s.schema}://{s.path}" for s in hydra.runtime.config_sources if s.provider not in known]


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them. Raises UsageError."""
    try:
        return [_parsed(override) for override in overrides]
    except HydraException as error:
        raise explain(error, overrides) from error


@lru_cache(maxsize=10_000)
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


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
