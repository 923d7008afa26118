"""Keys and values of which each head holds its own number of tokens (Feng et al. 2024, arXiv:2407.11550, section 4.3).

One flat buffer, first what was kept, head after head, then what came later, token after token:

    head 0: its tokens | head 1: its tokens | ... | token n: head 0, head 1, ... | token n + 1: ...

Only the lengths of the heads depend on the data; their sum does not. Until heads differ there is no first part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part, special
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import KeysAt, Span, Store, arange, gather
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import buffer_footprint

#: Entries of one head that are attended to as one block.
BLOCK = 64


@dataclass
class Ragged(State):
    """k [B, N, D] and v [B, N, Dv], entries of all heads; the first `flat` of them are in the order of heads, with
    lengths [B, Hkv] int32; the others in the order of tokens."""

    k: Buf
    v: Buf
    lengths: Tensor
    flat: int = 0

    @property
    def heads(self) -> int:
        return self.lengths.shape[1]


@component("store", "ragged")
@dataclass(frozen=True)
class RaggedStore(Store):
    """Another number of tokens in each head: 2 Hkv D T elements, and Hkv lengths."""

    ragged: ClassVar[bool] = True

    def init(self, layer: Layer, batch: int, bounded: bool) -> Ragged:
        k, v = (
            Buf.empty(batch, 0, d, dim=1, exact=bounded, dtype=layer.dtype, device=layer.device)
            for d in (layer.d, layer.dv)
        )
        return Ragged(k, v, torch.zeros(batch, layer.hkv, dtype=torch.int32, device=layer.device))

    def n(self, state: Any) -> int:
        return state.k.n // state.heads

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        for buf, x in ((state.k, k), (state.v, v)):
            buf.append(x.transpose(1, 2).flatten(1, 2))

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        heads = state.heads
        if end > begin and begin * heads < state.flat:
            raise ValueError("heads that hold different tokens have no slots in common to be read")
        k, v = (
            buf.view()[:, begin * heads : end * heads].unflatten(1, (end - begin, heads)).transpose(1, 2)
            for buf in (state.k, state.v)
        )
        return k, v

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        if not state.flat:
            return super().attend(state, q, span, keys_at, layer, attend, lse)
        later = Span(state.flat // state.heads, span.end, span.last)
        return [_attend_flat(state, q, layer, attend), *super().attend(state, q, later, keys_at, layer, attend, True)]

    def take(self, state: Any, keep: Tensor) -> None:
        n = self.n(state)
        k, v = self.read(state, 0, n)
        if keep.dim() == 3:  # as many in every head
            for buf, x in ((state.k, k), (state.v, v)):
                buf.set(gather(x, keep).transpose(1, 2).flatten(1, 2))
            return
        head = keep // n
        state.lengths = (head.unsqueeze(-1) == arange(0, state.heads, keep)).sum(1, dtype=torch.int32)
        state.flat = keep.shape[1]
        entries = ((keep - head * n) * state.heads + head).unsqueeze(-1)
        for buf in (state.k, state.v):
            buf.set(buf.view().gather(1, entries.expand(-1, -1, buf.x.shape[-1])))

    def drop(self, state: Any, begin: int, end: int) -> None:
        begin, end = begin * state.heads, end * state.heads
        if begin < state.flat:
            raise ValueError("heads that hold different tokens have no slots in common to be dropped")
        for buf in (state.k, state.v):
            x = buf.view()
            buf.set(torch.cat([x[:, :begin], x[:, end:]], 1))

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        lengths = layer.hkv * torch.int32.itemsize
        entries = buffer_footprint(batch, layer.kv_bytes // layer.hkv, slots * layer.hkv, bounded)
        return entries + Footprint.of(batch * lengths, read=lengths)


def _attend_flat(state: Ragged, q: Tensor, layer: Layer, attend: Attend) -> Part:
    """Attention of all queries over the entries that are in the order of heads, by the backend where it has a kernel
    for one query.

    Each head's entries are cut into blocks, the last one filled up: there are flat / BLOCK + Hkv blocks at most,
    whatever the lengths. Blocks attend apart, and those of a head are summed under its highest logit.
    """
    kernel = special(attend, "attend_ragged") if q.shape[2] == 1 else None
    if kernel is not None:
        k, v = state.k.view()[:, : state.flat], state.v.view()[:, : state.flat]
        return kernel(q, k, v, state.lengths, scale=layer.scale, softcap=layer.softcap)
    heads, lengths = state.heads, state.lengths.long()
    blocks = -(-lengths // BLOCK)
    ends = blocks.cumsum(1)
    block = arange(0, state.flat // BLOCK + heads, q)
    # [B, blocks]: the head a block is of; blocks that are over are empty ones of the last head.
    head = (block[:, None] >= ends[:, None]).sum(-1).clamp(max=heads - 1)
    nth = block - (ends - blocks).gather(1, head)
    inside = nth.unsqueeze(-1) * BLOCK + arange(0, BLOCK, q)
    there = inside < lengths.gather(1, head).unsqueeze(-1)
    entry = (inside + (lengths.cumsum(1) - lengths).gather(1, head).unsqueeze(-1)).clamp(max=state.flat - 1)
    k, v = (
        buf.view()
        .gather(1, entry.flatten(1).unsqueeze(-1).expand(-1, -1, buf.x.shape[-1]))
        .unflatten(1, entry.shape[1:])
        for buf in (state.k, state.v)
    )
    rows = q.unflatten(1, (heads, -1)).flatten(2, 3)  # [B, Hkv, G T, D]
    rows = rows.gather(1, head[..., None, None].expand(-1, -1, *rows.shape[2:]))

    least = torch.finfo(torch.float32).min
    x = logits(rows, k, layer.scale, layer.softcap).squeeze(2).masked_fill(~there.unsqueeze(2), least)
    owned = head.unsqueeze(-1) == arange(0, heads, q)  # [B, blocks, Hkv]
    top = x.amax(-1).unsqueeze(2).masked_fill(~owned.unsqueeze(-1), least).amax(1)
    weights = torch.exp(x - top.gather(1, head.unsqueeze(-1).expand(-1, -1, top.shape[-1])).unsqueeze(-1))
    o = torch.einsum("bnh,bnrd->bhrd", owned.float(), weights @ v.float())
    mass = torch.einsum("bnh,bnr->bhr", owned.float(), weights.sum(-1)).clamp(min=torch.finfo(torch.float32).tiny)
    o, lse = o / mass.unsqueeze(-1), top + mass.log()
    T = q.shape[2]
    return o.unflatten(2, (-1, T)).flatten(1, 2).to(q.dtype), lse.unflatten(2, (-1, T)).flatten(1, 2)
