"""What methods remember of a whole sequence, beside the states of its layers: its token ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.state import Buf, State


@dataclass
class Tokens(State):
    """ids [B, n] int64: the text so far, or the newest of it."""

    ids: Buf

    @classmethod
    def empty(cls, batch: int, device: torch.device | str) -> Tokens:
        return cls(Buf.empty(batch, 0, dim=1, exact=True, dtype=torch.int64, device=device))


def tokens_footprint(batch: int, n: int, read: bool) -> Footprint:
    """Cost of n token ids a sequence; `read`: every decoded token touches all of them."""
    one = n * torch.int64.itemsize
    return Footprint.of(batch * one, read=one if read else 0)
