"""First in, first out: keys and values of which only the last so many stay."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.stores.dense import KV, buffer_footprint


def push(kv: KV, k: Tensor, v: Tensor, limit: int) -> None:
    """Add entries at the end; the last `limit` stay."""
    for buf, x in ((kv.k, k), (kv.v, v)):
        buf.set(torch.cat([buf.view(), x], 2)[:, :, -limit:])


def footprint(layer: Layer, batch: int, n: int, limit: int) -> Footprint:
    """Cost after n entries were pushed."""
    return buffer_footprint(batch, layer.kv_bytes, min(n, limit), exact=True)
