"""Softmax attention over keys that were gathered from a whole cache: each head has its own, and a mask says which of
them a query sees. What a pattern skips is never gathered, so that its cost is that of the keys it names, in tiles of
queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import gather
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


def weigh(q: Tensor, k: Tensor, seen: Tensor, layer: Layer) -> Part:
    """Attention weights [B, H, G, T, n] and their log-sum-exp [B, H, G, T] in float32, of q [B, Hq, T, D] over
    k [B, H, n, D], where Hq is H G. seen [B, H, G, T, n] bool, or what broadcasts to it. A query that sees nothing has
    weights of zero, and the lowest float as its log-sum-exp."""
    x = logits(q, k, layer.scale, layer.softcap).masked_fill(~seen, float("-inf"))
    top = x.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    weights = torch.exp(x - top)
    mass = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return weights / mass, (top + mass.log()).squeeze(-1)


def attend_gathered(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, layer: Layer) -> Part:
    """Output [B, Hq, T, Dv] in q's dtype and log-sum-exp [B, Hq, T]; v [B, H, n, Dv], the rest as for `weigh`."""
    weights, lse = weigh(q, k, seen, layer)
    return torch.einsum("bhgts,bhsd->bhgtd", weights, v.float()).flatten(1, 2).to(q.dtype), lse.flatten(1, 2)


def gather_for_heads(x: Tensor, index: Tensor) -> Tensor:
    """Slots index [B, H, n] of x [B, Hkv, S, D], where H is a multiple of Hkv: heads of a group read the same x."""
    return gather(x, index.unflatten(1, (x.shape[1], -1)).flatten(2)).unflatten(2, (-1, index.shape[2])).flatten(1, 2)
