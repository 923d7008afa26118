"""A training's checkpoint: one file, whole or not there, that knows whose it is."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kvfrontier.runners.cache import write_whole
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.guard import one_line


def write(file: Path, identity: str, held: Mapping[str, Any]) -> None:
    """Write what a training holds: numbers, and state dictionaries of tensors."""
    content = io.BytesIO()
    torch.save({"identity": identity, **held}, content)
    write_whole(file, content.getvalue())


def read(file: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """What `write` wrote; None where there is nothing, or another training's of the same name. Raises UsageError for a
    file that cannot be read."""
    if not file.exists():
        return None
    try:
        held = torch.load(file, map_location=device, weights_only=True)
        return held if held["identity"] == identity else None
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError) as error:
        raise UsageError(
            f"the checkpoint {file} cannot be read ({one_line(error)[:80]}); remove it to begin anew"
        ) from error
