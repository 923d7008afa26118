"""Latents as packed integers: what a model with multi-head latent attention caches (mla.py), in 8, 4 or 2 bits.

    [c_t ; r_t] -> codes, and for each `group` of its channels a scale and a zero in fp16          (stores/uniform.py)

One vector a token serves all heads as key and, by its front, as value, so it is packed once, token by token: a group
along the tokens would need values to wait for their keys' groups. Until the prompt ends latents stay in full, and
behind it the newest `residual` tokens. Attention is absorbed, over latents that are decoded a tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import needs_grad
from kvfrontier.methods.axes import ENDLESS, Span, Store
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.sharing.mla import Mla
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import buffer_footprint
from kvfrontier.methods.stores.packing import Packed, check_bits, packed_footprint
from kvfrontier.methods.stores.uniform import Uniform

#: Tokens that are decoded at once while attending.
TILE = 2048


@dataclass
class PackedLatents(State):
    """packed: older tokens; full [B, 1, n, C + R]: the newest (until seal, all); front: elements that are the value."""

    packed: Packed
    full: Buf
    front: int
    sealed: bool = False


@dataclass(frozen=True)
class QuantizedLatents(Store):
    """bits of a code; group: channels that share a scale; symmetric: no zero is kept; residual in tokens."""

    bits: int = 4
    group: int = 64
    symmetric: bool = False
    residual: int = 0

    differentiable: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    knob: ClassVar[str | None] = "residual"

    def __post_init__(self) -> None:
        check_bits(self.bits, (2, 3, 4, 8))
        if self.group < 1 or self.residual < 0:
            raise ValueError(
                f"group {self.group} is a number of channels and residual {self.residual} of tokens; set method.group "
                "to at least 1 and method.residual to at least 0"
            )

    @property
    def codec(self) -> Uniform:
        return Uniform(self.bits, "token", self.group, self.symmetric)

    def validate(self, layer: Layer) -> None:
        self.codec.validate(layer.d, "the width of a latent and its shared key")

    def init(self, layer: Layer, batch: int, bounded: bool) -> PackedLatents:
        full = Buf.empty(batch, 1, 0, layer.d, exact=bounded, dtype=layer.dtype, device=layer.device)
        return PackedLatents(Packed.empty(self.codec, layer, batch, layer.d, bounded), full, layer.dv)

    def n(self, state: Any) -> int:
        return state.packed.n + state.full.n

    def room(self, state: Any) -> int:
        # Every further token lets one be packed.
        return 1 if state.sealed else ENDLESS

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.full.append(k)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        packed, full = state.packed, state.full
        pieces = []
        if begin < packed.n:
            pieces.append(packed.decode(self.codec, begin, min(end, packed.n)).to(full.x.dtype))
        if end > packed.n or not pieces:
            pieces.append(full.view()[:, :, max(0, begin - packed.n) : end - packed.n])
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
        return x, x[..., : state.front]

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        # The call's own tokens are all in the last tile, since they are not packed yet.
        last = max(span.begin, min(span.end - 1, state.packed.n))
        for a in range(span.begin, last, TILE):
            yield a, *self.read(state, a, min(last, a + TILE))
        yield last, *self.read(state, last, span.end)

    def settle(self, state: Any) -> None:
        if not state.sealed:
            return
        if needs_grad(state.full.x):
            raise ValueError("packed codes have no gradient; train with method=mla, or end the prompt without seal")
        leaving = state.full.n - self.residual
        if leaving > 0:
            x = state.full.view()
            state.packed.append(self.codec, x[:, :, :leaving])
            state.full.set(x[:, :, leaving:])

    def seal(self, state: Any) -> None:
        state.sealed = True
        self.settle(state)

    def drop(self, state: Any, begin: int, end: int) -> None:
        """Only the end of a call that scores is ever taken back."""
        if begin < state.packed.n:
            raise ValueError("latents that are packed cannot be dropped")
        x = state.full.view()
        n = state.packed.n
        state.full.set(torch.cat([x[:, :, : begin - n], x[:, :, end - n :]], 2))

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        packed = max(0, slots - self.residual) if sealed else 0
        held = packed_footprint(self.codec, layer, batch, layer.d, packed, sealed, bounded)
        return held + buffer_footprint(batch, layer.d * layer.dtype.itemsize, slots - packed, bounded)

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        return batch * slots * self.codec.nominal(layer.d) // 8

    def lossless(self, n: int) -> QuantizedLatents:
        return replace(self, residual=n + 1)


def _label(p: Mapping[str, Any]) -> str:
    return f"mla_int{p['bits']}" + (" symmetric" if p["symmetric"] else "")


@register(
    "mla_quantized",
    family="sharing",
    paper="DeepSeek-V2 2024, arXiv:2405.04434 (the latents); Liu et al. 2024, arXiv:2402.02750 (per-token groups)",
    cost="W (b/8 + 4/G) (T - r) bytes + W r elements for all heads together, W = C + R, r = min(T, residual); half of "
    "the metadata if symmetric; until seal W T elements",
    label=_label,
    tags=("growing", "internal", "lossy", "per layer"),
)
def MLAQuantized(bits: int = 4, group: int = 64, residual: int = 0, symmetric: bool = False) -> Mla:
    """The latents of a model with multi-head latent attention as packed integers.

    bits: 8, 4, 3 or 2; group: channels that share a scale; residual: newest tokens that stay in full; symmetric: the
    range is centred on zero, and no zero is kept.
    """
    return Mla(Cached(store=QuantizedLatents(bits, group, symmetric, residual)))
