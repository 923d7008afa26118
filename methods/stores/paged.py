"""Keys and values in blocks, as vLLM pages them (PagedAttention, Kwon et al. 2023, arXiv:2309.06180, section 4).

A block holds `block` tokens and is allocated when its first token comes, so that only the last block has unused room. A
full block is never written again: a fork shares it, and copies the last block alone. A block table says where each
block lies.

Blocks that came in one call lie one after the other, in a *slab*, and are read where they lie: a decoded token attends
over each long slab apart, and the parts are merged. Blocks that came one by one are put together, `LONG` into a slab,
once; of these few a fork that was made in between then holds a copy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.attend import Attend, Part, needs_grad
from kvfrontier.methods.axes import KeysAt, Span, Store, as_stored, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.kernels import paged_decode
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV

#: Blocks that make a slab worth a call of its own.
LONG = 16


@dataclass
class Slab(State):
    """Full blocks, one after the other: k [B, Hkv, m block, D], v [B, Hkv, m block, Dv]."""

    k: Tensor
    v: Tensor

    FROZEN: ClassVar[tuple[str, ...]] = ("k", "v")


@dataclass
class Pages(State):
    """full: slabs in order; last: the block that is being filled; table [B, blocks] int32: the slab in which a block
    lies, counted after the slabs for the last one."""

    full: list[Slab]
    last: KV
    table: Tensor


@component("store", "paged")
@dataclass(frozen=True)
class PagedStore(Store):
    """Blocks of `block` tokens, of which a fork shares the full ones.

    kernel   of a decoded query. "triton": one kernel reads every block where it lies, on CUDA (kernels/paged_decode.py)
    """

    block: int = 16
    kernel: Literal["eager", "triton"] = "eager"

    def __post_init__(self) -> None:
        if self.kernel == "triton":
            kernels.check("paged_decode")
        if self.block < 1:
            raise ValueError(f"block {self.block} holds no token; set method.block to at least 1")

    def init(self, layer: Layer, batch: int, bounded: bool) -> Pages:
        table = torch.empty(batch, 0, dtype=torch.int32, device=layer.device)
        return Pages([], KV.empty(layer, batch, exact=True), table)

    def n(self, state: Any) -> int:
        return sum(slab.k.shape[2] for slab in state.full) + state.last.k.n

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        held = state.last.k.n
        whole = (held + k.shape[2]) // self.block * self.block
        if whole:
            came = whole - held
            # Concatenation copies just this: a slice would keep its whole storage alive.
            keys, values = torch.cat([state.last.k.view(), k[:, :, :came]], 2), state.last.v.view()
            state.full.append(Slab(keys, torch.cat([values, v[:, :, :came]], 2)))
            state.last.k.set(k[:, :, :0])
            state.last.v.set(v[:, :, :0])
            k, v = k[:, :, came:], v[:, :, came:]
        if k.shape[2]:
            self._write(state.last.k, k)
            self._write(state.last.v, v)
        if whole or not held:
            self._number(state)

    def _write(self, last: Buf, x: Tensor) -> None:
        """Into the last block, which is allocated whole. (While a gradient is needed, it concatenates.)"""
        stale = last.x.is_inference() and not torch.is_inference_mode_enabled()
        if (last.x.shape[2] < self.block or stale) and not needs_grad(last.x, x):
            block = x.new_empty(*x.shape[:2], self.block, x.shape[3])
            block[:, :, : last.n].copy_(last.view())
            last.x = block
        last.append(x)

    def _number(self, state: Any) -> None:
        """Write the table anew."""
        slabs = [i for i, slab in enumerate(state.full) for _ in range(slab.k.shape[2] // self.block)]
        slabs += [len(state.full)] * min(1, state.last.k.n)
        row = torch.tensor(slabs, dtype=torch.int32, device=state.table.device)
        state.table = row.repeat(state.table.shape[0], 1)

    def _pieces(self, state: Any) -> list[tuple[int, Tensor, Tensor]]:
        """(first slot, keys, values) of each slab, and of the last block."""
        pieces, n = [], 0
        for slab in state.full:
            pieces.append((n, slab.k, slab.v))
            n += slab.k.shape[2]
        return [*pieces, (n, state.last.k.view(), state.last.v.view())]

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """A view where all lies in one slab."""
        pieces = self._pieces(state)
        found = [
            (k[:, :, max(0, begin - first) : max(0, end - first)], v[:, :, max(0, begin - first) : max(0, end - first)])
            for first, k, v in pieces
            if first < end and first + k.shape[2] > begin
        ]
        if not found:
            return pieces[-1][1][:, :, :0], pieces[-1][2][:, :, :0]
        return (
            found[0] if len(found) == 1 else (torch.cat([k for k, _ in found], 2), torch.cat([v for _, v in found], 2))
        )

    def gather(self, state: Any, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Through the table: each slab gives its own slots, so that the whole is never put together."""
        table = state.table[:, None].expand(-1, slots.shape[1], -1)
        lies_in = table.gather(2, slots // self.block).unsqueeze(-1)
        pieces = self._pieces(state)
        k, v = (x.new_zeros(*slots.shape, x.shape[3]) for x in pieces[0][1:])
        for i, (first, keys, values) in enumerate(pieces):
            if keys.shape[2]:
                inside = (slots - first).clamp(0, keys.shape[2] - 1)
                k = torch.where(lies_in == i, gather(keys, inside), k)
                v = torch.where(lies_in == i, gather(values, inside), v)
        return k, v

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        if self.kernel == "triton" and q.shape[2] == 1:
            return [self._by_table(state, q, span, keys_at, layer)]
        spans = [span] if span.window is not None else self._cut(state, span, q.shape[2])
        parts = []
        for one in spans:
            parts += super().attend(state, q, one, keys_at, layer, attend, lse or len(spans) > 1)
        return parts

    def _by_table(self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer) -> Part:
        """One query against all blocks, found by where they lie in memory."""
        n = self.n(state)
        if keys_at is not as_stored or span.begin or span.window is not None or span.end != n:
            raise ValueError(
                "kernel 'triton' reads all blocks as they are stored; choose method/positions=original and "
                "method/selection=all, or method.kernel=eager"
            )
        held = [(slab.k, slab.v, slab.k.shape[2]) for slab in state.full]
        held += [(state.last.k.x, state.last.v.x, state.last.k.n)] * bool(state.last.k.n)
        columns = [self._places([piece[side] for piece in held], [piece[2] for piece in held]) for side in (0, 1)]
        (at_k, head_k), (at_v, head_v) = ((x.to(q.device, non_blocking=True) for x in column) for column in columns)
        lengths = torch.full((q.shape[0],), n, dtype=torch.int32, device=q.device)
        return paged_decode.scattered(
            q, held[0][0], held[0][1], at_k, at_v, head_k, head_v, lengths, block=self.block, heads=layer.hkv,
            scale=layer.scale, softcap=layer.softcap,
        )  # fmt: skip

    def _places(self, pieces: Sequence[Tensor], tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where each block of pieces [B, Hkv, m block, D] begins, in elements from the first piece, and how far
        apart its heads are: [B, blocks] int64 both."""
        places, heads, base = [], [], pieces[0].data_ptr()
        row = torch.arange(pieces[0].shape[0])[:, None]
        for x, n in zip(pieces, tokens, strict=True):
            first = (x.data_ptr() - base) // x.element_size()
            block = torch.arange(-(-n // self.block)) * self.block * x.stride(2)
            places.append(first + row * x.stride(0) + block)
            heads.append(torch.full_like(places[-1], x.stride(1)))
        return torch.cat(places, 1), torch.cat(heads, 1)

    def _cut(self, state: Any, span: Span, T: int) -> list[Span]:
        """The span cut at the ends of long slabs. What lies between is short, or holds the call's own T tokens."""
        end = span.end - T if span.last else span.end
        cuts = {span.begin, span.end}
        for first, k, _ in self._pieces(state):
            if k.shape[2] >= LONG * self.block:
                cuts |= {slot for slot in (first, first + k.shape[2]) if span.begin < slot <= end}
        return [replace(span, begin=a, end=b, last=span.last and b == span.end) for a, b in pairwise(sorted(cuts))]

    def settle(self, state: Any) -> None:
        """Put the newest short slabs together, once they make a long one."""
        short = len(state.full)
        while short and state.full[short - 1].k.shape[2] < LONG * self.block:
            short -= 1
        newest = state.full[short:]
        if sum(slab.k.shape[2] for slab in newest) >= LONG * self.block:
            keys, values = torch.cat([slab.k for slab in newest], 2), torch.cat([slab.v for slab in newest], 2)
            state.full[short:] = [Slab(keys, values)]
            self._number(state)

    def take(self, state: Any, keep: Tensor) -> None:
        k, v = self.gather(state, keep)
        state.full = []
        self._replace(state, k, v)

    def drop(self, state: Any, begin: int, end: int) -> None:
        """Slabs before the first dropped slot stay; what comes after moves up, into new blocks."""
        stay = [slab for slab, (first, k, _) in zip(state.full, self._pieces(state), strict=False)
                if first + k.shape[2] <= begin]  # fmt: skip
        stays = sum(slab.k.shape[2] for slab in stay)
        before, after = self.read(state, stays, begin), self.read(state, end, self.n(state))
        state.full = stay
        self._replace(state, torch.cat([before[0], after[0]], 2), torch.cat([before[1], after[1]], 2))

    def _replace(self, state: Any, k: Tensor, v: Tensor) -> None:
        """Let these follow the full slabs."""
        state.last.k.set(k[:, :, :0])
        state.last.v.set(v[:, :, :0])
        self.append(state, k, v)
        self._number(state)

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        blocks = -(-slots // self.block)
        one = slots * layer.kv_bytes + blocks * torch.int32.itemsize
        return Footprint.of(batch * one, batch * (blocks * self.block - slots) * layer.kv_bytes, read=one)


@register(
    "paged",
    family="store",
    paper="Kwon et al. 2023, arXiv:2309.06180, section 4",
    cost="2 Hkv d T elements and ceil(T / block) table entries of 4 bytes; unused: the rest of the last block",
    tags=("growing", "internal", "exact", "per layer"),
)
def Paged(block: int = 16, kernel: Literal["eager", "triton"] = "eager") -> Cached:
    """The full cache in blocks of `block` tokens with a block table; a fork shares the full blocks.

    kernel, of a decoded query: eager, triton (CUDA).
    """
    return Cached(store=PagedStore(block, kernel))
