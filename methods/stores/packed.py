"""What all stores share that hold tokens as packed codes: the prompt in full until it ends, then codes behind a
residual of the newest tokens.

Of n tokens (after `sinks` first ones, which stay in full) a codec that packs tokens one by one leaves the newest
min(n, residual) in full; one that packs them in groups leaves n mod residual, since a group must be complete: KIVI's
rule for its values and for its keys. A decoded query sees the past at that precision, whatever call it comes in.

One decoded query attends without a decoded copy of the past: products with packed keys, softmax, sums of packed values
(`Codec.scores`, `Codec.mix`), in blocks. `tiles` gives the same tokens decoded, and is the oracle of that path.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part, needs_grad
from kvfrontier.methods.axes import ENDLESS, KeysAt, Span, Store, as_stored, gather
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV, buffer_footprint, remove
from kvfrontier.methods.stores.packing import Codec, Packed, packed_footprint

#: Tokens that are decoded at once while attending, so that a decoded copy of the cache never exists.
TILE = 2048
#: Codes of so many tokens are turned into floats at once for one query.
BLOCK = 4096


@dataclass
class PackedState(State):
    """sinks: the first tokens, in full; k, v: what is packed; full: the newest in full (until seal, everything)."""

    sinks: KV
    k: Packed
    v: Packed
    full: KV
    sealed: bool = False


@dataclass(frozen=True)
class PackedStore(Store):
    """A subclass gives `codecs`, and `basis` where tokens are held in another basis than the model's.

    residual and sinks in tokens.
    """

    residual: int = 128
    sinks: int = 0

    differentiable: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    knob: ClassVar[str | None] = "residual"

    @property
    def codecs(self) -> tuple[Codec, Codec]:
        """Of keys and of values."""
        raise NotImplementedError

    @functools.cached_property
    def _codecs(self) -> tuple[Codec, Codec]:
        return self.codecs

    def basis(self, d: int, like: Tensor) -> Tensor | None:
        """An orthonormal matrix [d, d] by which keys, values and queries are multiplied, or None."""
        return None

    @property
    def grain(self) -> int:
        """The residual is a multiple of it."""
        return max(codec.grain for codec in self.codecs)

    @property
    def knob_step(self) -> int:
        return self.grain

    @property
    def streams(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.grain == 1 and self.sinks == 0

    def __post_init__(self) -> None:
        if self.residual < 0 or self.sinks < 0:
            raise ValueError(
                f"residual {self.residual} and sinks {self.sinks} are numbers of tokens and cannot be negative"
            )
        grain = self.grain
        if grain > 1 and (self.residual < grain or self.residual % grain):
            raise ValueError(
                f"residual {self.residual} is not a positive multiple of the group size {grain}: tokens are packed "
                "a residual at a time, in whole groups; change method.residual or method.group"
            )

    def validate(self, layer: Layer) -> None:
        for codec, d, what in zip(self.codecs, (layer.d, layer.dv), ("head_dim", "value head_dim"), strict=True):
            codec.validate(d, what)

    def _packed(self, codec: Codec, n: int) -> int:
        """Tokens that are packed, of n."""
        n = max(0, n - self.sinks)
        return max(0, n - self.residual) if codec.grain == 1 else n - n % self.residual

    def init(self, layer: Layer, batch: int, bounded: bool) -> PackedState:
        k, v = (
            Packed.empty(codec, layer, batch, d, bounded)
            for codec, d in zip(self.codecs, (layer.d, layer.dv), strict=True)
        )
        return PackedState(KV.empty(layer, batch, exact=True), k, v, KV.empty(layer, batch, exact=bounded))

    def n(self, state: Any) -> int:
        return state.sinks.k.n + state.k.n + state.full.k.n

    def room(self, state: Any) -> int:
        if not state.sealed:
            return ENDLESS
        if state.sinks.k.n < self.sinks:
            return self.sinks - state.sinks.k.n
        # Within a call queries may see tokens that are packed one by one meanwhile (`_several`), but not whole groups.
        waiting = [last.n for codec, _, _, last in self._parts(state) if codec.grain > 1]
        return self.residual - max(waiting) if waiting else ENDLESS

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.full.k.append(self._turned(k))
        state.full.v.append(self._turned(v))

    def _turned(self, x: Tensor, back: bool = False) -> Tensor:
        """Into the basis of the store, or back."""
        basis = self.basis(x.shape[-1], x)
        return x if basis is None else (x.float() @ (basis.mT if back else basis)).to(x.dtype)

    def _parts(self, state: Any) -> Iterator[tuple[Codec, Buf, Packed, Buf]]:
        """Of keys and of values: the codec, and what is first, packed and last."""
        held = ((state.sinks.k, state.k, state.full.k), (state.sinks.v, state.v, state.full.v))
        for codec, part in zip(self._codecs, held, strict=True):
            yield codec, *part

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        k, v = (self._decoded(*part, begin, end) for part in self._parts(state))
        return self._turned(k, back=True), self._turned(v, back=True)

    def _decoded(self, codec: Codec, first: Buf, packed: Packed, last: Buf, begin: int, end: int) -> Tensor:
        """Slots `begin` to `end` in the store's basis."""
        sunk, coded, full = ranges((first.n, packed.n, last.n), begin, end)
        pieces = [
            first.cut(*sunk) if sunk else None,
            packed.decode(codec, *coded).to(last.x.dtype) if coded else None,
            last.cut(*full) if full else None,
        ]
        pieces = [piece for piece in pieces if piece is not None] or [last.view()[:, :, :0]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)

    def gather(self, state: Any, slots: Tensor) -> tuple[Tensor, Tensor]:
        if not self.streams:
            return super().gather(state, slots)
        k, v = (self._picked(codec, packed, last, slots) for codec, _, packed, last in self._parts(state))
        return self._turned(k, back=True), self._turned(v, back=True)

    def _picked(self, codec: Codec, packed: Packed, last: Buf, slots: Tensor) -> Tensor:
        """Single slots [B, Hkv, m] in the store's basis."""
        m = packed.n
        if m == 0:
            return gather(last.view(), slots)
        rows = [gather(buf.view(), slots.clamp(max=m - 1)) for buf in packed.columns]
        decoded = codec.decode(rows, packed.fitted).to(last.x.dtype)
        if last.n == 0:
            return decoded
        return torch.where((slots < m).unsqueeze(-1), decoded, gather(last.view(), (slots - m).clamp(min=0)))

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        # The call's own tokens are all in the last tile, since they are not packed yet.
        settled = state.sinks.k.n + state.k.n
        last = max(span.begin, min(span.end - 1, settled)) if state.sealed else span.begin
        for a in range(span.begin, last, TILE):
            yield a, *self.read(state, a, min(last, a + TILE))
        yield last, *self.read(state, last, span.end)

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        if not state.sealed:
            return super().attend(state, q, span, keys_at, layer, attend, lse)
        if q.shape[2] == 1:
            return [self._one(state, q, span, keys_at, layer, lse)]
        return self._several(state, q, span, keys_at, layer, attend)

    def _one(self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, lse: bool) -> Part:
        """One query, against codes. Keys that positions move are decoded, a block at a time."""
        begin = span.begin if span.window is None else max(span.begin, span.end - span.window)
        grouped = (q.float() * layer.scale).squeeze(2).unflatten(1, (layer.hkv, -1))  # [B, Hkv, G, D]
        if keys_at is as_stored:
            x = self._scores(state, self._turned(grouped), begin, span.end)
        else:
            blocks = [(a, min(span.end, a + TILE)) for a in range(begin, span.end, TILE)]
            keys = (keys_at(self.read(state, a, b)[0], a) for a, b in blocks)
            x = torch.cat([grouped @ k.float().mT for k in keys], -1)
        if layer.softcap is not None:
            x = layer.softcap * torch.tanh(x / layer.softcap)
        p = torch.softmax(x, -1)
        o = self._turned(self._mixed(state, p, begin, span.end), back=True)
        total = x.logsumexp(-1) if lse else x[..., 0]
        return o.flatten(1, 2).unsqueeze(2).to(q.dtype), total.flatten(1, 2).unsqueeze(2)

    def _scores(self, state: Any, q: Tensor, begin: int, end: int) -> Tensor:
        """Products [B, Hkv, G, end - begin] of queries [B, Hkv, G, D], in the store's basis, with keys."""
        codec, first, packed, last = next(self._parts(state))
        sunk, coded, full = ranges((first.n, packed.n, last.n), begin, end)
        x = [q @ first.cut(*sunk).float().mT] if sunk else []
        for a, b, before, behind in blocks(coded, codec.grain):
            products = codec.scores(q, packed.rows(a, b), packed.fitted)
            x.append(products[..., before : b - a - behind])
        x += [q @ last.cut(*full).float().mT] if full else []
        return x[0] if len(x) == 1 else torch.cat(x, -1)

    def _mixed(self, state: Any, p: Tensor, begin: int, end: int) -> Tensor:
        """Values summed with weights [B, Hkv, G, end - begin]."""
        _, (codec, first, packed, last) = self._parts(state)
        sunk, coded, full = ranges((first.n, packed.n, last.n), begin, end)
        parts, at = [], 0
        if sunk:
            x = first.cut(*sunk).float()
            parts, at = [p[..., : x.shape[2]] @ x], x.shape[2]
        for a, b, before, behind in blocks(coded, codec.grain):
            n = b - a - before - behind
            weights = p[..., at : at + n]
            if before or behind:
                weights = torch.nn.functional.pad(weights, (before, behind))
            parts.append(codec.mix(weights, packed.rows(a, b), packed.fitted))
            at += n
        if full:
            parts.append(p[..., at:] @ last.cut(*full).float())
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _several(self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend) -> list[Part]:
        """Query t of a call sees what it would see alone: tokens that leave the residual meanwhile packed, and in full
        only the last `residual` and itself. So there are three parts: what was packed before the call, which all see;
        the newest in full, under a window; and those that leave, packed, seen behind that window."""
        by_token = [packed.n for codec, _, packed, _ in self._parts(state) if codec.grain == 1]
        if not by_token or state.sinks.k.n < self.sinks:
            return super().attend(state, q, span, keys_at, layer, attend, True)
        assert span == Span(0, self.n(state)), "a range that moves with the query is asked one query at a time"
        options = {"scale": layer.scale, "softcap": layer.softcap}
        settled = state.sinks.k.n + min(by_token)
        parts = super().attend(state, q, Span(0, settled, last=False), keys_at, layer, attend, True) if settled else []
        k, v = self.read(state, settled, span.end)
        window = self.residual + 1
        parts.append(attend(q, keys_at(k, settled), v, causal=True, window=window, **options))
        leaving = span.end - window - settled
        if leaving > 0:
            k, v = (
                self._as_packed(codec, packed, x[:, :, :leaving])
                for (codec, _, packed, _), x in zip(self._parts(state), (k, v), strict=True)
            )
            o, total = attend(q[:, :, -leaving:], keys_at(k, settled), v, causal=True, **options)
            unseen = q.shape[2] - leaving
            o = torch.cat([o.new_zeros(*o.shape[:2], unseen, o.shape[3]), o], 2)
            total = torch.cat([total.new_full((*total.shape[:2], unseen), float("-inf")), total], 2)
            parts.append((o, total))
        return parts

    def _as_packed(self, codec: Codec, packed: Packed, x: Tensor) -> Tensor:
        """Tokens as a codec that packs one by one will leave them; a grouped one does not pack within a call."""
        if codec.grain > 1:
            return x
        return self._turned(
            codec.decode(codec.encode(self._turned(x), packed.fitted), packed.fitted).to(x.dtype), back=True
        )

    def settle(self, state: Any) -> None:
        if not state.sealed:
            return
        if needs_grad(state.full.k.x, state.full.v.x):
            raise ValueError("packed codes have no gradient; train with another store, or end the prompt without seal")
        n, single = self.n(state), []
        for codec, first, packed, last in self._parts(state):
            sinking = min(self.sinks, n) - first.n
            if sinking > 0:
                first.append(last.view()[:, :, :sinking])
                last.set(last.view()[:, :, sinking:])
            count = self._packed(codec, n) - packed.n
            if count > 0:
                leaving = last.cut(0, count)
                if count == 1:
                    single.append((codec, packed, leaving))
                else:
                    packed.append(codec, leaving)
                last.set(last.cut(count, last.n))
        if len(single) == 2 and _alike(*single):
            (codec, keys, k), (_, values, v) = single
            for rows, *bufs in zip(codec.encode(torch.cat([k, v]), []), keys.columns, values.columns, strict=True):
                for buf, row in zip(bufs, rows.chunk(2), strict=True):
                    buf.append(row)
        else:
            for codec, packed, x in single:
                packed.append(codec, x)

    def seal(self, state: Any) -> None:
        state.sealed = True
        for codec, _, packed, last in self._parts(state):
            x = last.view()
            packed.fitted = codec.fit(x[:, :, min(self.sinks, x.shape[2] - 1) :])
        self.settle(state)

    def take(self, state: Any, keep: Tensor) -> None:
        if state.sealed and not self.streams:
            raise ValueError("groups that are packed cannot lose single tokens")
        self.settle(state)
        m = max(0, keep.shape[2] - self.residual) if state.sealed else 0
        # At least `residual` slots are kept behind the first m, which therefore are packed already.
        for codec, _, packed, last in self._parts(state):
            newest = self._picked(codec, packed, last, keep[:, :, m:])
            for buf in packed.columns:
                buf.set(gather(buf.view(), keep[:, :, :m]))
            last.set(newest)

    def drop(self, state: Any, begin: int, end: int) -> None:
        for _, first, packed, last in self._parts(state):
            front = first.n + packed.n
            if begin < front and not self.streams:
                raise ValueError("groups that are packed cannot lose single tokens")
            if begin < front:
                for buf in packed.columns:
                    remove(buf, begin, min(end, front))
            if end > front:
                remove(last, max(0, begin - front), end - front)

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        total = Footprint()
        sunk = min(self.sinks, slots) if sealed else 0
        for codec, d in zip(self.codecs, (layer.d, layer.dv), strict=True):
            packed = self._packed(codec, slots) if sealed else 0
            entry = layer.hkv * d * layer.dtype.itemsize
            total += packed_footprint(codec, layer, batch, d, packed, sealed, bounded)
            total += buffer_footprint(batch, entry, sunk, True)
            total += buffer_footprint(batch, entry, slots - sunk - packed, bounded)
        return total

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        keys, values = self.codecs
        return batch * layer.hkv * slots * (keys.nominal(layer.d) + values.nominal(layer.dv)) // 8

    def lossless(self, n: int) -> Self:
        return replace(self, residual=(n // self.grain + 1) * self.grain)


def _alike(one: tuple[Codec, Packed, Tensor], other: tuple[Codec, Packed, Tensor]) -> bool:
    """Whether a key and a value are packed by the same rule: they then go together, since one costs as much as two."""
    (codec, packed, k), (codec_of_values, _, v) = one, other
    return k.shape == v.shape and codec == codec_of_values and not packed.fitted


def ranges(counts: Sequence[int], begin: int, end: int) -> list[tuple[int, int] | None]:
    """Where begin to end lies in each of several stretches of slots that follow one another, or None."""
    found: list[tuple[int, int] | None] = []
    for count in counts:
        a, b = max(0, begin), min(count, end)
        found.append((a, b) if a < b else None)
        begin, end = begin - count, end - count
    return found


def blocks(span: tuple[int, int] | None, grain: int) -> Iterator[tuple[int, int, int, int]]:
    """Blocks of whole grains that cover a range: begin, end, and how many of their tokens are before and behind it."""
    if span is None:
        return
    begin, end = span[0] // grain * grain, -(-span[1] // grain) * grain
    step = max(grain, BLOCK // grain * grain)
    for a in range(begin, end, step):
        b = min(end, a + step)
        yield a, b, max(0, span[0] - a), max(0, b - span[1])
