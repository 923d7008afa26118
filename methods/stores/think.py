"""ThinK (Xu et al. 2024, arXiv:2407.21018): few channels of a key carry most of its logits, so that a share of them
can go. When the prompt ends, each head keeps the channels whose product with its last queries is largest, queries of a
group together:

    score_j = ||Q_j||_2 ||K_j||_2,   Q the last `queries` queries, K all keys of the head, j a channel

and keys lose the others; a logit is then the product over what is left. Values and the newest keys stay whole: of n
tokens those since the last but one multiple of `window`, so that keys are thinned a window at a time as the text goes
on. (The paper keeps the last 32 of the prompt whole, and all that is generated.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.attend import Attend, Part
from kvfrontier.methods.axes import KeysAt, Span, Store, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.state import Buf, State
from kvfrontier.methods.stores.dense import KV, buffer_footprint

#: Thinned keys that are attended to at once, so that they never exist at full width together.
TILE = 2048


@dataclass
class Thinned(State):
    """thin [B, Hkv, m, C]: keys of the first m tokens in C channels, whose numbers are channels [B, Hkv, C] (int16);
    whole: keys of the others, and all values. Until seal, q [B, Hq, w, D] are the last queries, and all keys whole."""

    thin: Buf
    whole: KV
    q: Buf
    channels: Tensor | None = None


@component("store", "think")
@dataclass(frozen=True)
class ThinKStore(Store):
    """Keys without a share `ratio` of their channels; `queries` choose them, up to 2 `window` - 1 keys stay whole."""

    ratio: float = 0.4
    window: int = 32
    queries: int = 32

    exact: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    wants_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio {self.ratio} is the share of channels that go; set method.ratio from 0 to below 1")
        for name in ("window", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1; raise method.{name}")

    @property
    def last_queries(self) -> int:
        return self.queries

    def show(self, state: Any, q: Tensor) -> None:
        state.q.set(torch.cat([state.q.view(), q.detach()], 2)[:, :, -self.queries :])

    def _channels(self, d: int) -> int:
        """Channels that stay."""
        return d - int(self.ratio * d)

    def _thin(self, n: int) -> int:
        """Keys thinned, of n."""
        return max(0, n // self.window - 1) * self.window

    def init(self, layer: Layer, batch: int, bounded: bool) -> Thinned:
        options: dict[str, Any] = {"dtype": layer.dtype, "device": layer.device}
        return Thinned(
            Buf.empty(batch, layer.hkv, 0, self._channels(layer.d), **options),
            KV.empty(layer, batch, exact=False),
            Buf.empty(batch, layer.hq, 0, layer.d, exact=True, **options),
        )

    def n(self, state: Any) -> int:
        return state.whole.v.n

    def room(self, state: Any) -> int:
        return super().room(state) if state.channels is None else self.window - self.n(state) % self.window

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.whole.k.append(k)
        state.whole.v.append(v)

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        m, pieces = state.thin.n, []
        if begin < m:
            thin = state.thin.view()[:, :, begin:end]
            channels = state.channels.long().unsqueeze(2).expand(-1, -1, thin.shape[2], -1)
            pieces.append(thin.new_zeros(*thin.shape[:3], state.whole.k.x.shape[-1]).scatter(3, channels, thin))
        if end > m or not pieces:
            pieces.append(state.whole.k.view()[:, :, max(0, begin - m) : max(0, end - m)])
        k = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
        return k, state.whole.v.view()[:, :, begin:end]

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        # The call's own tokens are whole, and in the last tile.
        last = max(span.begin, state.thin.n)
        for a in range(span.begin, last, TILE):
            yield a, *self.read(state, a, min(last, a + TILE))
        yield last, *self.read(state, last, span.end)

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        if state.channels is None:
            self.show(state, q)
        return super().attend(state, q, span, keys_at, layer, attend, lse)

    def seal(self, state: Any) -> None:
        q, k = state.q.view(), state.whole.k.view()
        norms = q.float().unflatten(1, (k.shape[1], -1)).square().mean((2, 3)) * k.detach().float().square().mean(2)
        order = norms.sort(dim=-1, descending=True, stable=True).indices
        state.channels = order[..., : state.thin.x.shape[-1]].sort(-1).values.to(torch.int16)
        state.q.set(q[:, :, :0])
        self.settle(state)

    def settle(self, state: Any) -> None:
        count = self._thin(self.n(state)) - state.thin.n
        if state.channels is None or count <= 0:
            return
        k = state.whole.k.view()
        state.thin.append(k[:, :, :count].gather(3, state.channels.long().unsqueeze(2).expand(-1, -1, count, -1)))
        state.whole.k.set(k[:, :, count:])

    def take(self, state: Any, keep: Tensor) -> None:
        for buf in (state.whole.k, state.whole.v):
            buf.set(gather(buf.view(), keep))

    def drop(self, state: Any, begin: int, end: int) -> None:
        m = state.thin.n
        if begin < m or end != self.n(state):
            raise ValueError("keys that have lost channels cannot lose single tokens")
        state.whole.k.set(state.whole.k.view()[:, :, : begin - m])
        state.whole.v.set(state.whole.v.view()[:, :, :begin])

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        m, channels, element = self._thin(slots) if sealed else 0, self._channels(layer.d), layer.dtype.itemsize
        held = (
            buffer_footprint(batch, layer.hkv * channels * element, m, False)
            + buffer_footprint(batch, layer.hkv * layer.d * element, slots - m, False)
            + buffer_footprint(batch, layer.hkv * layer.dv * element, slots, False)
        )
        if sealed:
            numbers = layer.hkv * channels * torch.int16.itemsize
            return held + Footprint.of(batch * numbers, read=numbers)
        return held + Footprint.of(batch * layer.hq * min(self.queries, slots) * layer.d * element, read=0)

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        return batch * slots * layer.hkv * (self._channels(layer.d) + layer.dv) * layer.dtype.itemsize

    def lossless(self, n: int) -> ThinKStore:
        return replace(self, ratio=0.0)


@register(
    "think",
    family="store",
    paper="Xu et al. 2024, arXiv:2407.21018",
    cost="Hkv ((2 - r) d T + r d (w + T mod w)) elements, and Hkv (1 - r) d channel numbers; until seal 2 Hkv d T, and "
    "Hq d of 32 queries",
    tags=("growing", "internal", "lossy", "per head"),
)
def ThinK(ratio: float = 0.4, window: int = 32, queries: int = 32) -> Cached:
    """ThinK: keys lose the channels that the prompt's last queries use least.

    ratio: share of channels that go; window: at least so many of the newest keys stay whole, and fewer than twice as
    many; queries: how many of the last ones choose.
    """
    return Cached(store=ThinKStore(ratio, window, queries))
