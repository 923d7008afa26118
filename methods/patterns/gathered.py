"""Softmax attention over keys that were gathered from a whole cache: each head has its own, and a mask says which of
them a query sees. What a pattern skips is never gathered, so that its cost is that of the keys it names, in tiles of
queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import arange
from kvfrontier.methods.contract import Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.stores.dense import KV


def whole(kv: KV, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Keys and values of the text so far and of this call, which the cache remembers unless the call only scores."""
    if step.phase == "score":
        return torch.cat([kv.k.view(), k], 2), torch.cat([kv.v.view(), v], 2)
    kv.k.append(k)
    kv.v.append(v)
    return kv.k.view(), kv.v.view()


def weigh(q: Tensor, k: Tensor, seen: Tensor, layer: Layer, lse: bool = True) -> Part:
    """Attention weights [B, H, G, T, n] and their log-sum-exp [B, H, G, T] in float32, of q [B, Hq, T, D] over
    k [B, H, n, D], where Hq is H G. seen [B, H, G, T, n] bool, or what broadcasts to it. A query that sees nothing has
    the lowest float as its log-sum-exp, by which it counts for nothing where parts are merged, and equal weights. A
    caller that needs no log-sum-exp says lse=False; what then stands in its place is undefined."""
    x = logits(q, k, layer.scale, layer.softcap).masked_fill(~seen, torch.finfo(torch.float32).min)
    return torch.softmax(x, -1), x.logsumexp(-1) if lse else x.new_zeros(x.shape[:-1])


def attend_gathered(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, layer: Layer, lse: bool = True) -> Part:
    """Output [B, Hq, T, Dv] in q's dtype and log-sum-exp [B, Hq, T]; v [B, H, n, Dv], the rest as for `weigh`."""
    weights, total = weigh(q, k, seen, layer, lse)
    return torch.einsum("bhgts,bhsd->bhgtd", weights, v.float()).flatten(1, 2).to(q.dtype), total.flatten(1, 2)


def gather_for_heads(x: Tensor, index: Tensor) -> Tensor:
    """Slots index [B, H, n] of x [B, Hkv, S, D], where H is a multiple of Hkv: heads of a group read the same x."""
    B, H = x.shape[:2]
    # Whole rows by an index: several times faster than a gather of their elements.
    rows = x[arange(0, B, x)[:, None, None], arange(0, H, x)[:, None], index.unflatten(1, (H, -1)).flatten(2)]
    return rows.unflatten(2, (-1, index.shape[2])).flatten(1, 2)
