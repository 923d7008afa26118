"""Grouped-query attention on a pretrained model (Ainslie et al. 2023, arXiv:2305.13245, section 2.1): neighbouring
key/value heads are merged into one, the mean of theirs, and the queries of all of them attend to it.

    k'_j = mean of k_h,   v'_j = mean of v_h      over the heads h of group j

The paper pools the projections. Projections and RoPE are linear, so pooling keys and values is the same; a model that
normalizes keys (Qwen3) has its keys pooled after that. One head for all queries is multi-query attention (Shazeer 2019,
arXiv:1911.02150). The paper trains for 5% of the original steps after the merge; without that, quality is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.sharing.inner import of_inner, refuse_drivers


@dataclass(frozen=True)
class Merged(Method):
    """`inner` on a layer of `heads` key/value heads (None: as many as the model has)."""

    heads: int | None = 1
    inner: Method = field(default_factory=Cached)

    needs_training: ClassVar[bool] = True
    chunk_invariant: ClassVar[bool] = of_inner("chunk_invariant")
    decode_equals_prefill: ClassVar[bool] = of_inner("decode_equals_prefill")
    differentiable: ClassVar[bool] = of_inner("differentiable")
    bounded: ClassVar[bool] = of_inner("bounded")
    query_sensitive: ClassVar[bool] = of_inner("query_sensitive")
    simulated: ClassVar[bool] = of_inner("simulated")
    shareable: ClassVar[bool] = of_inner("shareable")
    unrotated: ClassVar[bool] = of_inner("unrotated")
    knob: ClassVar[str | None] = of_inner("knob")
    knob_step: ClassVar[int] = of_inner("knob_step")

    def __post_init__(self) -> None:
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"heads {self.heads} leaves no key or value; set method.heads to at least 1")
        refuse_drivers(self.inner)

    def reach(self, trained: float) -> float:
        return self.inner.reach(trained)

    def validate(self, layer: Layer) -> None:
        if self.heads is not None and layer.hkv % self.heads:
            whole = ", ".join(str(n) for n in range(1, layer.hkv + 1) if layer.hkv % n == 0)
            raise ValueError(
                f"heads {self.heads} does not divide the {layer.hkv} key/value heads of layer {layer.index} into "
                f"groups; set method.heads to one of {whole}"
            )
        self.inner.validate(self._narrow(layer))

    def _narrow(self, layer: Layer) -> Layer:
        return layer if self.heads is None else replace(layer, hkv=self.heads)

    def _pooled(self, x: Tensor) -> Tensor:
        """[B, Hkv, T, D] to [B, heads, T, D]."""
        return x if self.heads in (None, x.shape[1]) else x.unflatten(1, (self.heads, -1)).mean(2)

    def module(self, layer: Layer) -> nn.Module | None:
        return self.inner.module(self._narrow(layer))

    def init_state(self, layer: Layer, batch: int) -> Any:
        return self.inner.init_state(self._narrow(layer), batch)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        def pre() -> tuple[Tensor, Tensor]:
            q_pre, k_pre = step.pre()
            return q_pre, self._pooled(k_pre)

        inside = replace(step, unrotated=pre)
        return self.inner.attend(q, self._pooled(k), self._pooled(v), state, self._narrow(layer), inside)

    def seal(self, state: Any, layer: Layer) -> None:
        self.inner.seal(state, self._narrow(layer))

    def prefetch(self, state: Any, layer: Layer) -> None:
        self.inner.prefetch(state, self._narrow(layer))

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.inner.footprint(self._narrow(layer), batch, prompt, new, sealed)

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        return self.inner.nominal(self._narrow(layer), batch, prompt, new)

    def lossless(self, n: int) -> Merged | None:
        inner = self.inner.lossless(n)
        return Merged(None, inner) if inner else None


@register(
    "gqa",
    family="sharing",
    paper="Ainslie et al. 2023, arXiv:2305.13245, section 2.1",
    cost="2 heads d T elements",
    label=lambda p: f"gqa{p['heads']}",
    tags=("growing", "internal", "lossy", "per head"),
)
def GQA(heads: int = 1) -> Merged:
    """Grouped-query attention: key/value heads merged by their mean.

    heads: key/value heads that are left in each layer, a divisor of the model's.
    """
    return Merged(heads)


@register(
    "mqa",
    family="sharing",
    paper="Shazeer 2019, arXiv:1911.02150",
    cost="2 d T elements",
    tags=("growing", "internal", "lossy", "per head"),
)
def MQA() -> Merged:
    """Multi-query attention: one key/value head for all queries, the mean of the model's."""
    return Merged(1)
