"""Keys and values as packed integers of 8, 4 or 2 bits, in groups with a scale and a zero each; KIVI's cache.

KIVI (Liu et al. 2024, arXiv:2402.02750): outliers of keys sit in fixed channels, so keys are quantized per channel,
over groups of `group` tokens; values per token, over groups of `group` channels. The newest tokens stay in full:
of n tokens, keys keep n mod residual and values min(n, residual).

    code = round((x - zero) / scale),  zero = min of the group,  scale = (max - min) / (2^bits - 1)

Until `seal` the prompt is held in full, as in the paper, so that a prefill is exact. Scales and zeros are fp16, and the
codes are computed with the rounded ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part, merge, needs_grad
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import KeysAt, Span, Store, arange, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV, buffer_footprint

BITS = (2, 4, 8)
#: Tokens that are unpacked at once while attending, so that the full cache never exists.
TILE = 2048
_HALF_MAX = torch.finfo(torch.float16).max


def quantize(x: Tensor, bits: int, dim: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8, one each, shape of x), scales and zeros (float16, x's shape with `dim` divided by `group`)."""
    groups = x.float().unflatten(dim, (-1, group))
    at = dim % x.dim() + 1
    low, high = groups.amin(at), groups.amax(at)
    zero = low.clamp(-_HALF_MAX, _HALF_MAX).half()
    # The smallest normal half keeps a constant group exact: its codes are 0, its zero is the value.
    scale = ((high - zero.float()) / (2**bits - 1)).clamp(torch.finfo(torch.float16).tiny, _HALF_MAX).half()
    codes = (groups - zero.float().unsqueeze(at)) / scale.float().unsqueeze(at)
    return codes.round().clamp(0, 2**bits - 1).to(torch.uint8).flatten(at - 1, at), scale, zero


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor, dim: int, group: int, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to half a scale."""
    at = dim % codes.dim() + 1
    x = codes.unflatten(dim, (-1, group)).to(torch.float32)
    return (x * scale.float().unsqueeze(at) + zero.float().unsqueeze(at)).flatten(at - 1, at).to(dtype)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Several codes to a byte along the last dimension, the first in the lowest bits."""
    if bits == 8:
        return codes
    lanes = codes.unflatten(-1, (-1, 8 // bits))
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
    return (lanes << shifts).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)


@dataclass
class Packed(State):
    """Quantized tokens: codes [B, Hkv, n, D bits/8] uint8; scale and zero fp16, [B, Hkv, n/G, D] per channel or
    [B, Hkv, n, D/G] per token."""

    codes: Buf
    scale: Buf
    zero: Buf


@dataclass
class QuantizedState(State):
    """k, v: what is packed; full: what is still in full precision (until seal, everything)."""

    k: Packed
    v: Packed
    full: KV
    sealed: bool = False


@dataclass(frozen=True)
class QuantizedStore(Store):
    """Keys per channel, values per token (KIVI)."""

    bits: int = 2
    group: int = 32
    residual: int = 128

    differentiable: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    knob: ClassVar[str | None] = "residual"

    @property
    def knob_step(self) -> int:
        return self.group  # keys are packed a residual at a time, in whole groups

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits {self.bits} cannot be packed into bytes; choose one of {', '.join(map(str, BITS))}")
        if self.group < 1:
            raise ValueError(f"group size {self.group} must be at least 1")
        if self.residual < self.group or self.residual % self.group:
            raise ValueError(
                f"residual {self.residual} is not a positive multiple of the group size {self.group}: keys are packed "
                "a residual at a time, in whole groups; change method.residual or method.group"
            )

    def validate(self, layer: Layer) -> None:
        for name, d in (("head_dim", layer.d), ("value head_dim", layer.dv)):
            if d % self.group:
                raise ValueError(
                    f"group size {self.group} does not divide {name} {d}; set method.group to one of "
                    + ", ".join(str(g) for g in (16, 32, 64, 128) if d % g == 0)
                )

    # Tokens packed, of n: keys a residual at a time, values one by one as they leave the residual.
    def _packed(self, n: int) -> tuple[int, int]:
        return n - n % self.residual, max(0, n - self.residual)

    def init(self, layer: Layer, batch: int, bounded: bool) -> QuantizedState:
        def packed(d: int, scales: int) -> Packed:
            def empty(width: int, dtype: torch.dtype) -> Buf:
                return Buf.empty(batch, layer.hkv, 0, width, dtype=dtype, device=layer.device)

            width = d * self.bits // 8
            return Packed(empty(width, torch.uint8), empty(scales, torch.float16), empty(scales, torch.float16))

        k, v = packed(layer.d, layer.d), packed(layer.dv, layer.dv // self.group)
        return QuantizedState(k, v, KV.empty(layer, batch, exact=False))

    def n(self, state: Any) -> int:
        return state.k.codes.n + state.full.k.n

    def room(self, state: Any) -> int:
        # Within a call the past may be re-read with values that have left the residual (`attend`), but not with keys
        # of another precision.
        return self.residual - state.full.k.n if state.sealed else super().room(state)

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.full.k.append(k)
        state.full.v.append(v)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        return self._keys(state, begin, end), self._values(state, begin, end)

    def _keys(self, state: Any, begin: int, end: int) -> Tensor:
        """Whole groups are unpacked: `begin` is rounded down inside, and cut again."""
        m, G = state.k.codes.n, self.group
        pieces = []
        if begin < m:
            a, b = begin // G * G, min(m, -(-end // G) * G)
            codes = unpack(state.k.codes.view()[:, :, a:b], self.bits)
            scale, zero = (x.view()[:, :, a // G : b // G] for x in (state.k.scale, state.k.zero))
            keys = dequantize(codes, scale, zero, 2, G, state.full.k.x.dtype)
            pieces.append(keys[:, :, begin - a : end - a])
        if end > m:
            pieces.append(state.full.k.view()[:, :, max(0, begin - m) : end - m])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)

    def _values(self, state: Any, begin: int, end: int) -> Tensor:
        m = state.v.codes.n
        pieces = []
        if begin < m:
            codes = unpack(state.v.codes.view()[:, :, begin : min(m, end)], self.bits)
            scale, zero = (x.view()[:, :, begin : min(m, end)] for x in (state.v.scale, state.v.zero))
            pieces.append(dequantize(codes, scale, zero, 3, self.group, state.full.v.x.dtype))
        if end > m:
            pieces.append(state.full.v.view()[:, :, max(0, begin - m) : end - m])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        # The call's own tokens are all in the last tile: keys have no more than a residual in full.
        last = max(span.begin, min(span.end - 1, state.k.codes.n)) if state.sealed else span.begin
        for a in range(span.begin, last, TILE):
            yield a, *self.read(state, a, min(last, a + TILE))
        yield last, *self.read(state, last, span.end)

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        parts = super().attend(state, q, span, keys_at, layer, attend, lse or state.sealed)
        if not state.sealed or q.shape[2] == 1:
            return parts
        return [self._as_if_one_by_one(merge(parts), state, q, span, keys_at, layer)]

    def _as_if_one_by_one(self, part: Part, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer) -> Part:
        """Query t of a call must see packed values up to `residual` tokens before it, as it would alone; the call has
        seen those that leave the residual meanwhile in full. Add their weights times the rounding error."""
        o, lse = part
        n = span.end - q.shape[2]  # tokens before the call
        begin, end = state.v.codes.n, span.end - 1 - self.residual
        if end <= begin:
            return part
        v = self._values(state, begin, end)
        error = dequantize(*quantize(v, self.bits, 3, self.group), 3, self.group, v.dtype) - v
        x = logits(q, keys_at(self._keys(state, begin, end), begin), layer.scale, layer.softcap)
        weights = torch.exp(x - lse.unflatten(1, (layer.hkv, -1)).unsqueeze(-1))
        t = arange(n - self.residual, span.end - self.residual, q)
        weights = weights.masked_fill(arange(begin, end, q) >= t[:, None], 0.0)
        return o + torch.einsum("bhgts,bhsd->bhgtd", weights, error.float()).flatten(1, 2).to(o.dtype), lse

    def settle(self, state: Any) -> None:
        if state.sealed:
            self._flush(state)

    def _flush(self, state: Any) -> None:
        if needs_grad(state.full.k.x, state.full.v.x):
            raise ValueError(
                f"the codes of a {self.bits}-bit store have no gradient; train with another store, or end the prompt "
                "without seal"
            )
        n = self.n(state)
        keys, values = self._packed(n)
        self._pack(state.k, state.full.k, keys - state.k.codes.n, 2)
        self._pack(state.v, state.full.v, values - state.v.codes.n, 3)

    def _pack(self, packed: Packed, full: Buf, count: int, dim: int) -> None:
        if count <= 0:
            return
        x = full.view()
        codes, scale, zero = quantize(x[:, :, :count], self.bits, dim, self.group)
        packed.codes.append(pack(codes, self.bits))
        packed.scale.append(scale)
        packed.zero.append(zero)
        full.set(x[:, :, count:])

    def seal(self, state: Any) -> None:
        state.sealed = True
        self._flush(state)

    def take(self, state: Any, keep: Tensor) -> None:
        if state.sealed:
            raise ValueError("groups that are packed cannot lose single tokens")
        state.full.k.set(gather(state.full.k.view(), keep))
        state.full.v.set(gather(state.full.v.view(), keep))

    def drop(self, state: Any, begin: int, end: int) -> None:
        if begin < max(state.k.codes.n, state.v.codes.n) or end != self.n(state):
            raise ValueError("groups that are packed cannot lose single tokens")
        state.full.k.set(state.full.k.view()[:, :, : begin - state.k.codes.n])
        state.full.v.set(state.full.v.view()[:, :, : begin - state.v.codes.n])

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        keys, values = self._packed(slots) if sealed else (0, 0)

        def packed(n: int, d: int, scale_rows: int, scales: int) -> Footprint:
            codes = buffer_footprint(batch, layer.hkv * d * self.bits // 8, n, False)
            scale = buffer_footprint(batch, layer.hkv * scales * 2, scale_rows, False)
            return codes + scale + scale

        element = layer.hkv * layer.dtype.itemsize
        return (
            packed(keys, layer.d, keys // self.group, layer.d)
            + packed(values, layer.dv, values, layer.dv // self.group)
            + buffer_footprint(batch, element * layer.d, slots - keys, False)
            + buffer_footprint(batch, element * layer.dv, slots - values, False)
        )

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        return batch * layer.hkv * slots * (layer.d + layer.dv) * self.bits // 8

    def lossless(self, n: int) -> QuantizedStore:
        return replace(self, residual=(n // self.group + 1) * self.group)


@register(
    "kivi",
    family="store",
    paper="Liu et al. 2024, arXiv:2402.02750, algorithm 1",
    label=lambda p: f"kivi{p['bits']}",
    cost="per head: K (T-r)(b/8 d + 4d/G) + r d e, r = T mod R; V (T-s)(b/8 d + 4d/G) + s d e, s = min(T, R); "
    "b bits, e bytes an element; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Kivi(bits: int = 2, group: int = 32, residual: int = 128) -> Cached:
    """Quantized cache: keys per channel, values per token, the newest tokens in full (KIVI).

    bits 8, 4 or 2; `group` tokens or channels share a scale; `residual` tokens stay in full.
    """
    return Cached(store=QuantizedStore(bits, group, residual))
