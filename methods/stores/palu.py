"""Keys and values as few coordinates in a basis of each head, after Palu (Chang et al. 2024, arXiv:2407.21118):

    z_t = k_t U,   k_t ~ z_t U^T,   U [D, r] with orthonormal columns; values alike

so that attention is computed among the coordinates: (q U) . z_t, and the weighted sum of value coordinates times U^T.

Palu decomposes the model's projection matrices before any text is seen, so its basis costs no state and serves all
texts, and its keys are those before RoPE. Here the basis is that of the prompt: when it ends, U are the r leading right
singular vectors of its keys, of one sequence, layer and head. No basis loses less of the prompt's own keys (Eckart and
Young), but what is generated later must do with it, it is state and counted, and the keys are as attended; with
`positions: in_cache` they are those before RoPE. Palu may share a basis among heads; here each has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part
from kvfrontier.methods.axes import ENDLESS, KeysAt, Span, Store, as_stored
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV, DenseStore, buffer_footprint

#: Tokens that are turned back at once, where keys are rotated after they are read.
TILE = 2048
_FULL = DenseStore()


@dataclass
class Coordinates(State):
    """z [B, Hkv, n, r] in the basis [B, Hkv, D, r]."""

    z: Buf
    basis: Tensor

    @classmethod
    def of(cls, x: Tensor, rank: int) -> Coordinates:
        """Of tokens x [B, Hkv, n, D], in their own leading directions. The basis has no gradient."""
        rows = x.detach().float()
        # Eigenvectors of X^T X are right singular vectors of X, and there are D of them however few the tokens are.
        basis = torch.linalg.eigh((rows.mT @ rows).double()).eigenvectors[..., -rank:].to(x.dtype).contiguous()
        own = cls(Buf.empty(*x.shape[:2], 0, rank, dtype=x.dtype, device=x.device), basis)
        own.append(x)
        return own

    def append(self, x: Tensor) -> None:
        self.z.append(x @ self.basis)

    def read(self, begin: int, end: int) -> Tensor:
        return self.z.view()[:, :, begin:end] @ self.basis.mT


@dataclass
class PaluState(State):
    """full: everything until seal, and nothing after it; k, v: what is held from then on."""

    full: KV
    k: Coordinates | None = None
    v: Coordinates | None = None


@component("store", "palu")
@dataclass(frozen=True)
class PaluStore(Store):
    """Keys and values as coordinates in a basis of few vectors. `rank`: coordinates of a head, no more than its
    dimension; None: half of it."""

    rank: int | None = None

    exact: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    knob: ClassVar[str | None] = "rank"

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank {self.rank} leaves no coordinate; set method.rank to at least 1")

    def _rank(self, d: int) -> int:
        return max(1, d // 2) if self.rank is None else min(self.rank, d)

    def init(self, layer: Layer, batch: int, bounded: bool) -> PaluState:
        return PaluState(KV.empty(layer, batch, exact=False))

    def n(self, state: Any) -> int:
        return state.full.k.n if state.k is None else state.k.z.n

    def room(self, state: Any) -> int:
        # The tokens of one call must be in one tile.
        return ENDLESS if state.k is None else TILE

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        if state.k is None:
            _FULL.append(state.full, k, v)
        else:
            state.k.append(k)
            state.v.append(v)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        if state.k is None:
            return _FULL.read(state.full, begin, end)
        return state.k.read(begin, end), state.v.read(begin, end)

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        last = max(span.begin, span.end - TILE) if state.k is not None else span.begin
        for a in range(span.begin, last, TILE):
            yield a, *self.read(state, a, min(last, a + TILE))
        yield last, *self.read(state, last, span.end)

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        if state.k is None or keys_at is not as_stored:
            return super().attend(state, q, span, keys_at, layer, attend, lse)
        held = slice(span.begin, span.end)
        k, v = state.k.z.view()[:, :, held], state.v.z.view()[:, :, held]
        o, total = attend(
            _grouped(q, state.k.basis), k, v, scale=layer.scale, softcap=layer.softcap, causal=span.last,
            window=span.window if span.last else None, lse=lse,
        )  # fmt: skip
        return [(_grouped(o, state.v.basis.mT), total)]

    def seal(self, state: Any) -> None:
        if state.k is not None:
            return
        k, v = state.full.k.view(), state.full.v.view()
        state.k, state.v = (Coordinates.of(x, self._rank(x.shape[-1])) for x in (k, v))
        for buf in (state.full.k, state.full.v):
            buf.set(buf.view()[:, :, :0])

    def take(self, state: Any, keep: Tensor) -> None:
        assert state.k is None, "a selection at seal takes before the store is sealed"
        _FULL.take(state.full, keep)

    def drop(self, state: Any, begin: int, end: int) -> None:
        if state.k is None:
            return _FULL.drop(state.full, begin, end)
        assert end == state.k.z.n, "only the newest tokens are taken back"
        for part in (state.k, state.v):
            part.z.set(part.z.view()[:, :, :begin])

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        if not sealed:
            return _FULL.footprint(layer, batch, slots, sealed, False)
        total, element = Footprint(), layer.hkv * layer.dtype.itemsize
        for d in (layer.d, layer.dv):
            rank = self._rank(d)
            basis = d * rank * element
            total += buffer_footprint(batch, rank * element, slots, False)
            total += Footprint.of(batch * basis, read=basis)
        return total

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        return batch * slots * layer.hkv * sum(self._rank(d) for d in (layer.d, layer.dv)) * layer.dtype.itemsize

    def lossless(self, n: int) -> PaluStore:
        return replace(self, rank=1 << 16)


def _grouped(x: Tensor, basis: Tensor) -> Tensor:
    """x [B, Hq, T, a] times its key/value head's basis [B, Hkv, a, b]."""
    return (x.unflatten(1, (basis.shape[1], -1)) @ basis.unsqueeze(2)).flatten(1, 2)


@register(
    "palu",
    family="store",
    paper="Chang et al. 2024, arXiv:2407.21118, section 3.1; the basis here is the prompt's, not the weights'",
    cost="2 Hkv r (T + d) elements; until seal 2 Hkv d T",
    tags=("growing", "internal", "lossy", "per head"),
)
def Palu(rank: int | None = None) -> Cached:
    """Low-rank cache: keys and values as coordinates in the leading directions of the prompt's own (after Palu).

    rank: coordinates of a head, no more than its dimension (null: half of it, as in the paper).
    """
    return Cached(store=PaluStore(rank))
