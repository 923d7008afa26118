"""A model that is ready to run, and how its device and dtype are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kvfrontier.runners.errors import UsageError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps")

#: What a model without absolute or rotary positions can take: as much as there is memory for.
_UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode, without gradients for its parameters, and what records say of it.

    revision       names the weights: a sha256 of their content, or the hub's commit
    max_context    positions that the model was made for, in tokens
    weights_bytes  of parameters and buffers, shared storage counted once
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str
    max_context: int
    license: str
    weights_bytes: int

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype


def ready(
    model: nn.Module, tokenizer: Any, *, device: torch.device, name: str, revision: str, license_name: str
) -> LoadedModel:
    """Move the model to its device, freeze it, and read off the rest."""
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise UsageError(f"{name} does not fit on {device}; set device=cpu or a smaller dtype") from error
    model.eval().requires_grad_(False)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        max_context=positions or _UNBOUNDED,
        license=license_name,
        weights_bytes=_storage_bytes(model),
    )


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of this name. Raises UsageError for one that models are not run in."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def resolve_device(name: str) -> torch.device:
    """The device of this name (auto, cpu, cuda, cuda:N, mps); auto is the first there is of cuda, mps and cpu.

    Raises UsageError for a device that this machine, or this build of torch, lacks.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not (kind == "cuda" and index.isdigit())):
        raise unknown("device", name, DEVICES)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={name}: torch {torch.__version__} finds no CUDA device; set device=auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device={name}: torch {torch.__version__} finds no Metal device; set device=auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"device={name}: there are {torch.cuda.device_count()} CUDA devices; count from cuda:0")
    return torch.device(f"{kind}:{index}" if index else kind)


@contextmanager
def quiet_transformers(quiet: bool = True) -> Iterator[None]:
    """Without transformers' own progress bars, which would also be drawn where nobody looks."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if quiet:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _storage_bytes(model: nn.Module) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
