"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): what is kept of a token is one latent for
all heads, and one rotated key that they share. Of head h, with rows W_k, W_v of the up-projection:

    k_s = [W_k c_s ; r_s],   v_s = W_v c_s                                           (equations 10, 11, 15)
    absorbed:   q.k_s = [W_k^T q_nope ; q_rope].[c_s ; r_s],   o = W_v sum_s p_s c_s

Absorbed, the model attends in the space of the latents as if there were one key/value head, whose value is the front of
its key: no key or value of a head ever exists, and whatever selects tokens of a cache selects latents. Expanded, keys
and values are computed from the latents whenever they are attended, a tile at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.sharing.inner import of_inner
from kvfrontier.methods.sharing.latents import ExpandedStore, LatentStore
from kvfrontier.methods.state import State


def up_projections(layer: Layer) -> tuple[Tensor, Tensor]:
    """W_k [Hq, D - R, C] and W_v [Hq, Dv, C]: from a latent of C elements to each head, R of whose D are the shared
    rotated key."""
    assert layer.latent is not None
    rank, shared = layer.latent
    weight = layer.module.kv_b_proj.weight.view(layer.hq, layer.d - shared + layer.dv, rank)
    return weight.split([layer.d - shared, layer.dv], 1)


@dataclass(frozen=True)
class AbsorbedLatents(LatentStore):
    """[c ; r] of C + R elements, as the key of one head; its value is c."""

    def width(self, layer: Layer) -> int:
        return sum(layer.latent or ())

    def front(self, layer: Layer) -> int:
        return layer.dv  # of the one head


@dataclass(frozen=True)
class ExpandedLatents(ExpandedStore):
    """[c ; r], of which every head's key and value are computed when they are attended."""

    def width(self, layer: Layer) -> int:
        return sum(layer.latent or ())

    def expand(self, x: Tensor, slot: int, layer: Layer) -> tuple[Tensor, Tensor]:
        w_k, w_v = up_projections(layer)
        c, shared = x.tensor_split([w_k.shape[2]], -1)
        k = torch.cat([c @ w_k.transpose(1, 2), shared.expand(-1, layer.hq, -1, -1)], -1)
        return k, c @ w_v.transpose(1, 2)


@dataclass
class MlaState(State):
    """inner: the cache of latents; new [B, 1, T, C + R]: a call's latents, from the cache's update until it attends;
    None between calls."""

    inner: Any
    new: Tensor | None = None


@dataclass(frozen=True)
class Mla(Method):
    """`inner` in the space of the latents."""

    inner: Cached = field(default_factory=lambda: Cached(store=AbsorbedLatents()))

    chunk_invariant: ClassVar[bool] = of_inner("chunk_invariant")
    decode_equals_prefill: ClassVar[bool] = of_inner("decode_equals_prefill")
    differentiable: ClassVar[bool] = of_inner("differentiable")
    bounded: ClassVar[bool] = of_inner("bounded")
    query_sensitive: ClassVar[bool] = of_inner("query_sensitive")
    simulated: ClassVar[bool] = of_inner("simulated")
    needs_training: ClassVar[bool] = of_inner("needs_training")
    unrotated: ClassVar[bool] = of_inner("unrotated")
    knob: ClassVar[str | None] = of_inner("knob")
    knob_step: ClassVar[int] = of_inner("knob_step")

    @property
    def _expands(self) -> bool:
        return isinstance(self.inner.store, ExpandedStore)

    def _space(self, layer: Layer) -> Layer:
        """The layer as `inner` sees it: one key/value head of latents, unless they are expanded."""
        assert layer.latent is not None
        return layer if self._expands else replace(layer, hkv=1, d=sum(layer.latent), dv=layer.latent[0])

    def reach(self, trained: float) -> float:
        return self.inner.reach(trained)

    def validate(self, layer: Layer) -> None:
        if layer.latent is None:
            raise ValueError(
                f"layer {layer.index} caches keys and values and has no latents to hold; choose a model with "
                "multi-head latent attention (DeepSeek), or method=dense"
            )
        self.inner.validate(self._space(layer))

    def module(self, layer: Layer) -> nn.Module | None:
        return self.inner.module(self._space(layer))

    def init_state(self, layer: Layer, batch: int) -> MlaState:
        return MlaState(self.inner.init_state(self._space(layer), batch))

    def latent(self, a: Tensor, b: Tensor, state: Any, layer: Layer) -> tuple[Tensor, Tensor]:
        state.new = torch.cat([a, b], -1)
        return a, b

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        x, state.new = state.new, None
        assert layer.latent is not None and x is not None
        rank, shared = layer.latent
        if self._expands:
            return self.inner.attend(q, x, x[..., :rank], state.inner, self._space(layer), step)
        w_k, w_v = up_projections(layer)

        def absorbed(q: Tensor) -> Tensor:
            still, turned = q.split([layer.d - shared, shared], -1)
            return torch.cat([still @ w_k, turned], -1)

        def pre() -> tuple[Tensor, Tensor]:
            q_pre, k_pre = step.pre()
            # Every head has the same rotated key.
            return absorbed(q_pre), torch.cat([x[..., :rank], k_pre[:, :1, :, -shared:]], -1)

        inside = replace(step, unrotated=pre)
        out = self.inner.attend(absorbed(q), x, x[..., :rank], state.inner, self._space(layer), inside)
        return out @ w_v.transpose(1, 2)

    def seal(self, state: Any, layer: Layer) -> None:
        self.inner.seal(state.inner, self._space(layer))

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.inner.footprint(self._space(layer), batch, prompt, new, sealed)

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        return self.inner.nominal(self._space(layer), batch, prompt, new)

    def lossless(self, n: int) -> Mla | None:
        inner = self.inner.lossless(n)
        return replace(self, inner=inner) if inner else None


@register(
    "mla",
    family="sharing",
    paper="DeepSeek-V2 2024, arXiv:2405.04434, equations 9-19",
    cost="(C + R) T elements for all heads together: C of the latent, R of the shared rotated key",
    label=lambda p: "mla" if p["form"] == "absorbed" else "mla_expanded",
    tags=("growing", "internal", "exact", "per layer"),
)
def MLA(form: Literal["absorbed", "expanded"] = "absorbed", backend: str = "auto") -> Mla:
    """The latents of a model with multi-head latent attention, and nothing expanded in memory.

    form: "absorbed" attends to the latents themselves; "expanded" computes the heads' keys and values from them at
    every call. backend as in `dense`.
    """
    return Mla(Cached(store=AbsorbedLatents() if form == "absorbed" else ExpandedLatents(), backend=backend))
