"""Memorizing Transformers (Wu et al. 2022, arXiv:2203.08913): in one layer, what leaves the local window stays in an
external memory, of which every query finds the `top` keys nearest to it; all other layers are local.

    M_t = the `top` keys k of the memory with the highest q_t . k, in each query head

The search runs in host memory, where the keys are; only what is found moves. Found and local keys share one softmax, as
in LongMem (Wang et al. 2023, arXiv:2306.07174), so that a model need not be trained for it. The paper mixes the outputs
of two by a learned gate of each head, g = sigmoid(b):

    out = g attention(q, M_t) + (1 - g) attention(q, local)

The paper's memory has no positions. Here found keys all stand in one place, just outside the window. The paper gives it
to the 9th of 12 layers. It normalises keys and queries, drops the oldest keys of a full memory, searches it
approximately and sends no gradient into it; here keys are the model's own, all of them stay, the search is exact, and a
gradient reaches those that are found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Memory, Positions, arange, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory.gate import Gate, gated
from kvfrontier.methods.per_layer import Layers, PerLayer
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.retrieval.one_place import in_one_place
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.state import Buf, Bytes, Host
from kvfrontier.methods.stores.dense import KV, buffer_footprint

#: Queries that search at once: what exists of all logits is one tile.
TILE = 64
_LOWEST = torch.finfo(torch.float32).min


@component("memory", "knn")
@dataclass(frozen=True)
class NearestMemory(Memory):
    """What leaves is kept, and a query finds the nearest keys among it.

    top: keys that a query finds, in each head; join: how the two are joined; gate: logit of the memory's share at
    which every head's gate begins.
    """

    top: int = 32
    join: Literal["softmax", "gate"] = "softmax"  # pyright: ignore[reportIncompatibleVariableOverride]
    gate: float = 0.0

    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top {self.top} finds nothing; set method.top to at least 1")

    @property
    def needs_training(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.join == "gate"

    def module(self, layer: Layer) -> Gate | None:
        return Gate(layer, self.gate) if self.join == "gate" else None

    def init(self, layer: Layer, batch: int) -> Host:
        k, v = (Buf.empty(batch, layer.hkv, 0, d, dtype=layer.dtype, device="cpu") for d in (layer.d, layer.dv))
        return Host(KV(k, v))

    def slots(self) -> int:
        return 1

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.inner.k.append(k.to("cpu"))
        state.inner.v.append(v.to("cpu"))

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        kept, n = state.inner, state.inner.k.n
        if n + k.shape[2] == 0:
            return None
        keys, values = kept.k.view(), kept.v.view()
        if k.shape[2]:
            keys, values = torch.cat([keys, k.to("cpu")], 2), torch.cat([values, v.to("cpu")], 2)
        seen = (counts + n).to("cpu")
        parts = [
            self._found(q[:, :, a : a + TILE], keys, values, seen[a : a + TILE], layer, keys_at)
            for a in range(0, q.shape[2], TILE)
        ]
        return torch.cat([o for o, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)

    def _found(self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, layer: Layer, keys_at: KeysAt) -> Part:
        """Attention of each query to the nearest of the first seen[t] keys, in host memory."""
        n = keys.shape[2]
        grouped = q.unflatten(1, (layer.hkv, -1)).float()
        # In the memory's one place keys are as they were stored, or all turned alike: their order is the same. Columns
        # that positions add to a query say where, which is one place.
        asked = grouped[..., : keys.shape[3]].detach().to("cpu")
        near = torch.einsum("bhgtd,bhnd->bhgtn", asked, keys.detach().float())
        near = near.masked_fill(arange(0, n, keys) >= seen[:, None], -math.inf)
        index = near.topk(min(self.top, n)).indices
        k, v = (gather(x, index.flatten(2)).to(q.device) for x in (keys, values))
        k, v = (x.float().unflatten(2, index.shape[2:]) for x in (in_one_place(k, keys_at), v))
        x = (grouped.unsqueeze(-2) * k).sum(-1) * layer.scale
        if layer.softcap is not None:
            x = layer.softcap * torch.tanh(x / layer.softcap)
        x = x.masked_fill((index >= seen[:, None]).to(q.device), _LOWEST)
        o = (x.softmax(-1).unsqueeze(-1) * v).sum(-2)
        return o.flatten(1, 2).to(q.dtype), x.logsumexp(-1).flatten(1, 2)

    def mix(self, part: Part, memory: Part, layer: Layer) -> Part:
        o, lse = memory
        return gated(part, o, lse > _LOWEST / 2, layer, self.gate)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        held = buffer_footprint(batch, layer.kv_bytes, gone, False).held
        values = min(gone * layer.hkv, min(gone, self.top) * layer.hq)
        read = (gone * layer.hkv * layer.d + values * layer.dv) * layer.dtype.itemsize
        return Footprint(Bytes(host=held.device, host_slack=held.device_slack), read)


@register(
    "memorizing",
    family="retrieval",
    paper="Wu et al. 2022, arXiv:2203.08913, section 3",
    cost="2 Hkv d min(T, w) elements a layer; in one layer 2 Hkv d (T - w) in host memory, whose keys are all searched",
    label=lambda p: "memorizing" if p["join"] == "softmax" else "memorizing_gate",
    tags=("growing", "external", "lossy", "per head"),
)
def Memorizing(
    window: int = 512,
    top: int = 32,
    layer: int = -4,
    join: Literal["softmax", "gate"] = "softmax",
    gate: float = 0.0,
    positions: Literal["in_cache", "original"] = "in_cache",
) -> PerLayer:
    """Memorizing Transformer: windows, and in one layer the nearest of all keys that left its window.

    window in tokens; top: keys that a query finds in each head; layer: which one remembers (-4: the 9th of 12); `join`
    by one softmax, or by a learned gate a head, whose logits begin at `gate`. `positions="original"` keeps the text's
    own for what is found.
    """
    if window < 1:
        raise ValueError(f"window {window} holds no token; set method.window to at least 1")
    remembering = Cached(
        WindowSelection(window),
        memory=NearestMemory(top=top, join=join, gate=gate),
        positions=InCachePositions() if positions == "in_cache" else Positions(),
    )
    return PerLayer(Cached(WindowSelection(window)), ((Layers(str(layer)), remembering),))
