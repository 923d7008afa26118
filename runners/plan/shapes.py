"""What planning asks of a model, kept in the user's cache: its configuration, its attention layers, its weights. Making
them takes seconds, most of them for loading transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from kvfrontier.methods import Layer
from kvfrontier.runners import models
from kvfrontier.runners.cache import cache_dir, read_json, write_whole
from kvfrontier.runners.record import canonical_json, content_hash
from kvfrontier.runners.refusal import deciding

_LAYER = ("index", "count", "hq", "hkv", "d", "dv", "scale", "window", "softcap", "source", "latent", "hidden")


@dataclass(frozen=True)
class Shapes:
    """configuration of transformers as plain data; layers in float32 on the CPU, without modules; weights in bytes, in
    the dtype of the model's configuration."""

    configuration: Mapping[str, Any]
    layers: tuple[Layer, ...]
    weights: int


def of(model: Mapping[str, Any]) -> Shapes:
    """The shapes of a model by the keys of configs/model, and dtype. Raises UsageError as models.load does, and
    UnsupportedModel where no method can serve it."""
    return _of(canonical_json({key: value for key, value in model.items() if key != "device"}))


def may_be_kept(model: Mapping[str, Any]) -> bool:
    """Whether the keys say it all: what lies at a path may change."""
    return not (model["kind"] == "hf" and not model.get("architecture"))


@lru_cache(maxsize=16)
def _of(model: str) -> Shapes:
    config = json.loads(model)
    kept = may_be_kept(config)
    memo = cache_dir() / "shapes" / f"{content_hash([config, *deciding()])[:32]}.json"
    found = read_json(memo) if kept else {}
    if not found:
        found = _made(config)
        if kept:
            with suppress(OSError):  # where the cache cannot be written, the next one asks again
                write_whole(memo, json.dumps(found).encode())
    layers = (Layer(**{**one, "latent": tuple(one["latent"]) if one["latent"] else None}) for one in found["layers"])
    return Shapes(found["configuration"], tuple(layers), found["weights"])


def _made(config: Mapping[str, Any]) -> dict[str, Any]:
    from kvfrontier.runners.plan.roofline import anatomy

    with torch.no_grad():
        layers = [{key: getattr(layer, key) for key in _LAYER} for layer in models.layers(config)]
        weights = anatomy(config).weights
    configuration = models.configuration(config).to_dict()
    return {"configuration": json.loads(canonical_json(configuration)), "layers": layers, "weights": weights}
