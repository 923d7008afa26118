"""Models: `load(config)` gives a causal language model, its tokenizer, and what a record says of it.

embedded.py    models that Python packages bring, converted once (smollm2-135m, gemma3-270m)
pretrained.py  a folder, or a model on the Hugging Face hub (hf)
tiny.py        random weights, for tests (tiny)
loaded.py      what all of them give, and the dtypes it may have
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from kvfrontier.methods.layer import Layer
from kvfrontier.runners.cache import cache_dir
from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.models.embedded import Embedded
from kvfrontier.runners.models.loaded import LoadedModel, resolve_dtype
from kvfrontier.runners.models.pretrained import Pretrained
from kvfrontier.runners.models.tiny import Tiny

__all__ = [
    "KINDS", "LoadedModel", "cache_dir", "configuration", "layers", "load", "resolve_device", "resolve_dtype",
    "skeleton", "tokenizer",
]  # fmt: skip

#: `kind` of a YAML in configs/model, and the dataclass whose fields are its other keys.
KINDS: dict[str, type[Embedded | Pretrained | Tiny]] = {"embedded": Embedded, "hf": Pretrained, "tiny": Tiny}


def load(config: Mapping[str, Any]) -> LoadedModel:
    """Load the model that `config` describes: the keys of configs/model/*.yaml, and dtype and device.

    The embedded model is fetched and converted the first time (30 s), and takes 2 s from then on. Raises UsageError,
    with what to do, for a key or value that does not exist, a path without weights, a device that is not there, and a
    download that fails.
    """
    return _parse(config).load()


def layers(config: Mapping[str, Any], first: int | None = None) -> tuple[Layer, ...]:
    """The attention layers of the model that `config` describes, without its weights: shapes alone, in float32 on the
    CPU; `first` as for `skeleton`. Raises UsageError as `load` does, and UnsupportedModel where no method can serve the
    model."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from kvfrontier.runners.bridge import Bridge

    with FakeTensorMode():
        found = Bridge(skeleton(config, first)).layers
    return tuple(replace(layer, module=None, rope=None, dtype=torch.float32, device="cpu") for layer in found)


def tokenizer(config: Mapping[str, Any]) -> Any:
    """The tokenizer of the model that `config` describes, without its weights. Raises UsageError as `load` does."""
    return _parse(config).tokenizer()


def configuration(config: Mapping[str, Any]) -> Any:
    """transformers' configuration of the model that `config` describes. Raises UsageError as `load` does."""
    return _parse(config).configuration()


def skeleton(config: Mapping[str, Any], first: int | None = None) -> Any:
    """The model that `config` describes, or one of its `first` layers alone, with parameters that nobody has filled:
    inside a FakeTensorMode it takes no memory, and runs. Raises UsageError as `load` does."""
    from transformers import AutoModelForCausalLM

    parsed = _parse(config)
    described = parsed.configuration()
    if first is not None:
        described = _of_first_layers(described, first)
    try:
        model = AutoModelForCausalLM.from_config(described, dtype=resolve_dtype(parsed.dtype))
    except ValueError as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"transformers makes no causal language model of {parsed.name}: {reason[:200]}") from error
    return model.eval().requires_grad_(False)


def _of_first_layers(described: Any, first: int) -> Any:
    """transformers' configuration of a model that ends after its first layers."""
    shorter = copy.deepcopy(described)
    text = shorter.get_text_config()
    for key, value in list(vars(text).items()):
        # What is said layer by layer, as layer_types.
        if isinstance(value, list) and len(value) == text.num_hidden_layers:
            setattr(text, key, value[:first])
    text.num_hidden_layers = first
    return shorter


def _parse(config: Mapping[str, Any]) -> Embedded | Pretrained | Tiny:
    config = dict(config)
    kind = str(config.pop("kind", ""))
    if kind not in KINDS:
        raise unknown("kind of model", kind, KINDS)
    known = [field.name for field in fields(KINDS[kind])]
    for key in config:
        if key not in known:
            raise unknown("model parameter", str(key), known)
    try:
        model = TypeAdapter(KINDS[kind]).validate_python(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f".{part}" for part in first["loc"])
        raise UsageError(f"model{where}={first['input']!r}: {first['msg']}") from error
    return model
