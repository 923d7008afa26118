"""How long it takes at best: bytes moved over bandwidth, or operations over their peak, whichever is more.

A floor, not a forecast: kernels reach a part of either, and what a method does beside attending is free here. Prefill
attends as dense attention does, every query to every key that it may see.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kvfrontier.methods import Layer
from kvfrontier.runners import models
from kvfrontier.runners.peak import storage_bytes
from kvfrontier.runners.plan.hardware import Hardware
from kvfrontier.runners.record import canonical_json

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Anatomy:
    """What a model's weights are, in bytes and in parameters.

    weights    bytes of parameters and buffers, shared storage once
    experts    bytes of the experts among them, of which a token meets the share `met`
    products   parameters that multiply each token: all but embeddings, and of experts those that it meets
    head       parameters that make logits of a position
    """

    weights: int
    experts: int
    met: float
    products: float
    head: int

    def read(self, batch: int) -> float:
        """Bytes of weights that one step of `batch` tokens reads: of experts those that any of them meets."""
        return self.weights - self.experts * (1 - self.met) ** batch


@dataclass(frozen=True)
class Floor:
    """Seconds, and what bounds them: "compute" or "memory"."""

    seconds: float
    bound: str


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, tied ones once."""
    return storage_bytes(chain(model.parameters(), model.buffers()))


def anatomy(model: Mapping[str, Any]) -> Anatomy:
    """The anatomy of the model that `model` describes, its dtype included."""
    return _anatomy(canonical_json({**model, "device": "cpu"}))


@lru_cache(maxsize=8)
def _anatomy(model: str) -> Anatomy:
    with FakeTensorMode():
        skeleton = models.skeleton(json.loads(model))
        config = skeleton.config.get_text_config()
        experts = [p for name, p in skeleton.named_parameters() if ".experts." in name]
        head = skeleton.get_output_embeddings().weight.numel()
        tables = {id(m.weight): m.weight.numel() for m in (skeleton.get_input_embeddings(),)}
        tables[id(skeleton.get_output_embeddings().weight)] = head
        count = next((getattr(config, key) for key in _EXPERTS if getattr(config, key, None)), 0)
        met = config.num_experts_per_tok / count if experts else 1.0
        in_experts = sum(p.numel() for p in experts)
        parameters = sum(p.numel() for p in skeleton.parameters())
        return Anatomy(
            weights=weight_bytes(skeleton),
            experts=storage_bytes(experts),
            met=met,
            products=parameters - sum(tables.values()) - in_experts * (1 - met),
            head=head,
        )


def prefill(
    device: Hardware, model: Anatomy, layers: Sequence[Layer], batch: int, prompt: int, chunk: int | None, held: int
) -> Floor:
    """Seconds to the first token: weights are read once a chunk, and the `held` bytes of state are written and read."""
    chunks = -(-prompt // (chunk or prompt))
    pairs = sum(_products(layer) * _pairs(prompt, layer.window) for layer in layers)
    operations = 2 * batch * (model.products * prompt + model.head * chunks + pairs)
    tokens = batch * min(prompt, chunk or prompt)
    return _floor(device, chunks * model.read(tokens) + 2 * held, operations)


def decode(device: Hardware, model: Anatomy, layers: Sequence[Layer], batch: int, context: int, read: int) -> Floor:
    """Seconds a token of each of `batch` sequences, which read `read` bytes of state each."""
    pairs = sum(_products(layer) * min(context, layer.window or context) for layer in layers)
    return _floor(device, model.read(batch) + batch * read, 2 * batch * (model.products + model.head + pairs))


def _products(layer: Layer) -> int:
    """Multiplications of one query and one key, all heads: the logit, and the value's share."""
    return layer.hq * (layer.d + layer.dv)


def _pairs(n: int, window: int | None) -> int:
    """Pairs of a query and a key that it sees among n tokens."""
    w = min(n, window or n)
    return w * (w + 1) // 2 + (n - w) * w


def _floor(device: Hardware, moved: float, operations: float) -> Floor:
    memory, compute = moved / device.bandwidth, operations / device.flops
    return Floor(memory, "memory") if memory >= compute else Floor(compute, "compute")
