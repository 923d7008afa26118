"""A model that is ready to run, and the dtypes it may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kvfrontier.runners.errors import UsageError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

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

    @property
    def facts(self) -> dict[str, Any]:
        """What a record keeps of the model."""
        return {
            "revision": self.revision,
            "license": self.license,
            "max_context": self.max_context,
            "weights_bytes": self.weights_bytes,
        }


def ready(
    model: Any, tokenizer: Any, *, device: str | None, name: str, revision: str, license_name: str
) -> LoadedModel:
    """Move the model to its device (None: it is where it shall be), freeze it, and read off the rest.
    torch.OutOfMemoryError where it does not fit. Raises UsageError where a part of it is on no GPU."""
    if device is not None:
        model.to(device)
    elif elsewhere := sorted({p.device.type for p in model.parameters()} - {"cuda"}):
        raise UsageError(
            f"{name} does not fit on the GPUs that are here: a part would be on {', '.join(elsewhere)}; use more of "
            "them, or a smaller dtype"
        )
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
