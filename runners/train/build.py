"""From configuration to a model with random weights and the method that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from kvfrontier.methods import Cached, Layer, Method, registry
from kvfrontier.methods.positions.alibi import AlibiPositions
from kvfrontier.runners import models
from kvfrontier.runners.environment import resolve_device
from kvfrontier.runners.errors import UsageError, unknown

POSITIONS = ("none", "rope", "alibi")


@dataclass(frozen=True)
class Compact:
    """Parameters of the compact decoder (model.py); those of configs/train/model."""

    name: str = "zoology"
    layers: int = 2
    width: int = 64
    heads: int = 1
    kv_heads: int | None = None
    convolutions: tuple[int, ...] = (0,)
    kernel: int = 3
    mlp: int = 0
    positions: str = "none"
    output_norm: bool = False
    tied: bool = True

    def check(self) -> None:
        """Raise UsageError where the sizes do not fit together."""
        if min(self.layers, self.width, self.heads, self.kernel) < 1 or self.mlp < 0:
            raise UsageError("model.layers, model.width, model.heads and model.kernel must be at least 1")
        if self.width % self.heads or self.heads % (self.kv_heads or self.heads):
            raise UsageError(
                f"model.heads={self.heads} must divide model.width={self.width}, and model.kv_heads must divide it"
            )
        if self.positions not in POSITIONS:
            raise unknown("positions of a model", self.positions, POSITIONS)
        if self.positions == "rope" and (self.width // self.heads) % 2:
            raise UsageError("rotary positions turn pairs: model.width / model.heads must be even")
        if not all(0 <= i < self.layers for i in self.convolutions) or len(set(self.convolutions)) >= self.layers:
            raise UsageError(
                f"model.convolutions={list(self.convolutions)} must be layers of the {self.layers}, and leave one that "
                "attends"
            )

    def configuration(self, vocabulary: int) -> Any:
        """transformers' configuration."""
        from kvfrontier.runners.train.model import CompactConfig

        return CompactConfig(
            vocab_size=vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            convolutions=self.convolutions,
            kernel=self.kernel,
            mlp=self.mlp,
            output_norm=self.output_norm,
            positions="rope" if self.positions == "rope" else "none",
            tie_word_embeddings=self.tied,
        )


def compact(config: Mapping[str, Any]) -> Compact:
    """The compact decoder's parameters of a configuration of kind `compact`. Raises UsageError."""
    given = {key: value for key, value in config.items() if key not in ("kind", "dtype", "device")}
    known = [field.name for field in fields(Compact)]
    for key in given:
        if key not in known:
            raise unknown("model parameter", f"model.{key}", [f"model.{k}" for k in known])
    try:
        found = TypeAdapter(Compact).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f".{part}" for part in first["loc"])
        raise UsageError(f"model{where}={first['input']!r}: {first['msg']}") from error
    found.check()
    return found


def layers(config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The attention layers of a compact decoder, without its weights: shapes alone, in float32 on the CPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from kvfrontier.runners.bridge import Bridge

    with FakeTensorMode():
        found = Bridge(_from_config(compact(config).configuration(vocabulary=2))).layers
    return tuple(replace(layer, module=None, rope=None, device="cpu") for layer in found)


def name(config: Mapping[str, Any]) -> str:
    """The model's name, with every size that tells it from another of that name."""
    if config["kind"] != "compact":
        from kvfrontier.runners.cell import model_name

        return f"{model_name(config)} from scratch"
    sizes = ", ".join(f"{key}={_short(value)}" for key, value in vars(compact(config)).items() if key != "name")
    return f"{config['name']}({sizes})"


def _short(value: Any) -> Any:
    return "-".join(map(str, value)) if isinstance(value, tuple) else value


def build(config: Mapping[str, Any], vocabulary: int, *, seed: int, dtype: str, device: str) -> Any:
    """The model in eval mode, its parameters to be trained; equal arguments give equal weights. Raises UsageError."""
    if config["kind"] == "compact":
        described = compact(config).configuration(vocabulary)
    else:
        described = models.configuration({**config, "dtype": dtype, "device": device})
        described.get_text_config().vocab_size = vocabulary
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):  # of another vocabulary
            setattr(described, key, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _from_config(described)
    return made.to(device=resolve_device(device), dtype=models.resolve_dtype(dtype)).eval().requires_grad_(True)


def _from_config(described: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from kvfrontier.runners.train.model import CompactConfig, CompactForCausalLM

    if isinstance(described, CompactConfig):
        return CompactForCausalLM(described)
    return AutoModelForCausalLM.from_config(described)


def method_of(params: Mapping[str, Any], config: Mapping[str, Any]) -> Method:
    """The method, at the positions that the model is to have. Raises UsageError for one that cannot be trained, or
    whose logits ALiBi cannot bias."""
    try:
        made = registry.build(params)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not made.differentiable:
        raise UsageError(
            f"{registry.label(params)} rounds what it stores and lets no gradient through; train with dense, and "
            "measure it on the trained model"
        )
    if config.get("positions") == "alibi":
        if not isinstance(made, Cached):
            raise UsageError(
                f"ALiBi is a bias of softmax logits, and {registry.label(params)} has none; choose "
                "model.positions=none or rope"
            )
        try:
            return replace(made, positions=AlibiPositions())
        except ValueError as error:
            raise UsageError(str(error)) from error
    return made
