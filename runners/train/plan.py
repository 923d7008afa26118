"""From words and sweeps to trainings, each with the records that it will make.

Words are Hydra's overrides over configs/train/config.yaml. Several values with commas between them make as many
trainings. A sweep's YAML may list `runs`, each a list of such words: sizes of one method differ from those of another,
and are no product. Words of the command line win over those of a run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kvfrontier.methods import registry
from kvfrontier.runners import compose as main_compose
from kvfrontier.runners import environment
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import Cell, Record, content_hash, load_records, record_id
from kvfrontier.runners.train import build, tasks
from kvfrontier.runners.train import settings as train_settings
from kvfrontier.runners.train.settings import Settings
from kvfrontier.runners.train.tasks import Shape, TrainedTask

#: What a model is before it is trained: random weights; a model that was trained with dense attention first, for
#: `train.before` steps; or the weights that its configuration names.
BEGINS = ("scratch", "dense", "pretrained")

CONFIGS = "kvfrontier.configs.train"


@dataclass(frozen=True)
class Asked:
    """One test of a training: its shape, the cell and the id of its record, and that record where it exists."""

    shape: Shape
    cell: Cell
    id: str
    record: Record | None


@dataclass(frozen=True)
class Planned:
    """One training: what was said of it, and the tests that follow."""

    config: dict[str, Any]
    method: dict[str, Any]
    task: TrainedTask
    settings: Settings
    asked: tuple[Asked, ...]
    overrides: tuple[str, ...] = ()

    @property
    def to_run(self) -> bool:
        """Whether a test has no record yet; failed ones are tried again."""
        return any(a.record is None or a.record.status == "failed" for a in self.asked)

    @property
    def identity(self) -> str:
        """Names the training, whatever it is asked afterwards."""
        cell = self.asked[0].cell
        kept = {"model", "dtype", "device", "method", "seed", "training"}
        return content_hash([cell.model_dump(include=kept), registry.source_hash(cell.method)])

    @property
    def label(self) -> str:
        """The method's short name."""
        return registry.label(self.method)

    @property
    def steps(self) -> int:
        """Of one learning rate."""
        batch = self.settings.batch
        epoch = sum(-(-shape["examples"] // batch) for shape in self.task.train)
        return self.settings.steps or self.settings.epochs * epoch


def plan(words: Sequence[str]) -> list[Planned]:
    """The trainings that words describe, each once. Raises UsageError for what does not exist."""
    main_compose.register()
    found: dict[str, Planned] = {}
    records: dict[str, dict[str, Record]] = {}
    with _hydra():
        configs = [(overrides, composed(overrides)) for overrides in _expanded(words)]
    for overrides, config in configs:
        results = Path(config["results"])
        if config["results"] not in records:
            records[config["results"]] = {r.id: r for r in load_records(results)} if results.exists() else {}
        one = describe(config, records[config["results"]], overrides)
        found.setdefault(one.identity, one)
    return list(found.values())


def reread(planned: Sequence[Planned]) -> list[Planned]:
    """The same trainings with the records that are there now."""
    there = {where: load_records(where) for where in {one.config["results"] for one in planned} if Path(where).exists()}
    records = {where: {r.id: r for r in found} for where, found in there.items()}
    return [
        replace(
            one,
            asked=tuple(replace(a, record=records.get(one.config["results"], {}).get(a.id)) for a in one.asked),
        )
        for one in planned
    ]


def describe(config: Mapping[str, Any], records: Mapping[str, Record], overrides: Sequence[str] = ()) -> Planned:
    """One training, from a configuration that these overrides composed."""
    method = dict(config["method"])
    if not method.get("layers"):
        method.pop("layers", None)
    try:
        method = registry.complete(method)
    except ValueError as error:
        raise UsageError(str(error)) from error
    seed = config["seed"]
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed={seed!r} must be a whole number of at least 0")
    begins, asked_task = config["begins"], dict(config["task"])
    if begins not in BEGINS:
        raise unknown("beginning of a training", str(begins), BEGINS)
    if begins == "pretrained":
        if asked_task.get("name") != "text" or config["model"]["kind"] == "compact":
            raise UsageError(
                "begins=pretrained continues a model that has weights, on text in its own tokens; choose task=text and "
                "model=smollm2-135m, hf or another of kvfrontier list models"
            )
        asked_task["tokenizer"] = dict(config["model"])
    task, settings = tasks.make(asked_task), train_settings.read(config["train"])
    if settings.lora and begins == "scratch":
        raise UsageError("train.lora adapts weights that were trained before; choose begins=dense or begins=pretrained")
    device = environment.resolve_device(config["device"])
    training = {
        "settings": settings.decisive
        if begins == "dense"
        else {k: v for k, v in settings.decisive.items() if k != "before"},
        "shapes": [dict(shape) for shape in task.train],
        "begins": begins,
        "model": {k: v for k, v in config["model"].items() if k not in ("name", "kind")},
    }
    name = build.name(config["model"])
    asked = []
    for shape in task.exams:
        cell = Cell(
            model=name,
            dtype=config["dtype"],
            device=device,
            method=method,
            task={"name": task.name, **task.asked(shape), "examples": task.examples},
            protocol={"chunk": None, **config["meter"]},
            context=shape["length"],
            seed=seed,
            training=training,
        )
        key = identify(cell)
        asked.append(Asked(shape, cell, key, records.get(key)))
    return Planned(dict(config), method, task, settings, tuple(asked), tuple(overrides))


def identify(cell: Cell) -> str:
    """The id of the cell's record on this machine."""
    where = environment.device_name(cell.device)
    return record_id(
        cell, registry.source_hash(cell.method), where, torch.__version__, metadata.version("transformers")
    )


def _expanded(words: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of every training."""
    parsed = main_compose.parse(list(words))
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    axes = [_values(o) for o in parsed if o.is_sweep_override()]
    told = {o.key_or_group for o in parsed}
    for run in composed(fixed)["runs"] or [[]]:
        own = [_values(o) for o in main_compose.parse(list(run)) if o.key_or_group not in told]
        for chosen in itertools.product(*own, *axes):
            # Choices of groups first: their values follow.
            yield [*fixed, *chosen]


def _values(override: Override) -> list[str]:
    """An override with one value each."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UsageError(f"{override.input_line!r} is not a list of values; write values with commas between them")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of one training. Raises UsageError, with the nearest real name for what does not exist."""
    choices, values = [], []
    for override in main_compose.parse(list(overrides)):
        key = override.key_or_group
        plain = override.type == OverrideType.CHANGE and ("." in key or key in _SCALARS)
        (values if plain else choices).append(override)
    try:
        config = OmegaConf.create(_compose(tuple(str(o.input_line) for o in choices)))
        known = list(_keys(OmegaConf.to_container(config)))  # pyright: ignore[reportArgumentType]
        for override in values:
            if override.key_or_group not in known:
                raise unknown("key", override.key_or_group, known)
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        found = OmegaConf.to_container(config, resolve=True)
    except MissingConfigException as error:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        raise unknown(group or "configuration", choice, error.options or ()) from error
    except (HydraException, OmegaConfBaseException) as error:
        named = re.match(r"Could not override '([^'@]+)'", str(error))
        if named:
            raise unknown("key", named[1].lstrip("+~"), _keys(_compose(()))) from error
        raise UsageError(" ".join(str(error).strip().split("\n")[:2])) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


#: Keys at the root of configs/train/config.yaml that hold a value and no choice of a group.
_SCALARS = ("begins", "seed", "dtype", "device", "results")


@cache
def _compose(choices: tuple[str, ...]) -> dict[str, Any]:
    """What choices of groups give, interpolations as they are written. Hydra takes a tenth of a second for each: values
    are set afterwards, which takes none."""
    with _hydra():
        config = OmegaConf.to_container(compose("config", overrides=list(choices)))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


_open: ContextVar[bool] = ContextVar("open", default=False)


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's compose API over configs/train, whatever Hydra is running outside; opened once for many compositions."""
    if _open.get():
        yield
        return
    outer, token = GlobalHydra.instance().hydra, _open.set(True)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIGS, job_name="kvfrontier", version_base="1.3"):
            yield
    finally:
        _open.reset(token)
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def _keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
