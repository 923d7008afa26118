"""Expected attention (Devoto et al. 2025, arXiv:2510.00636): queries of one head are nearly Gaussian before RoPE, so
the attention that a key will receive from queries to come has a closed form. With mean mu and covariance Sigma of the
prompt's queries, both rotated by R, the mean of RoPE's rotations over the next `future` positions,

    z_i = k_i^T R mu / sqrt(d) + k_i^T R Sigma R^T k_i / (2 d),    score_i = softmax(z)_i ||v_i||

averaged over the query heads of a group. As in NVIDIA's kvpress, the first `sinks` tokens take no part in mu and Sigma,
and always stay. There the moments are those of the projected hidden states; here they are the queries' own, so that
models that normalise their queries are served too. The last queries are among them, and count as any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods.axes import Call, arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Phase
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.seal import SealSelection
from kvfrontier.methods.state import State

#: Keys that are scored at once.
TILE = 2048


@dataclass
class QueryMoments(State):
    """Of n queries before RoPE, in float32: mean [B, Hq, D], and the sum of squared deviations scatter [B, Hq, D, D];
    seen: tokens so far."""

    mean: Tensor
    scatter: Tensor
    n: int = 0
    seen: int = 0


def expected_logits(k: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """log E exp(q k) [B, Hkv, G, n] of keys [B, Hkv, n, D] over Gaussian queries: means [B, Hkv, G, D], and half their
    covariances [B, Hkv, G, D, D]."""
    return torch.einsum("bhgd,bhnd->bhgn", mean, k) + ((k.unsqueeze(2) @ spread) * k.unsqueeze(2)).sum(-1)


@component("selection", "expected_attention")
@dataclass(frozen=True)
class ExpectedAttentionSelection(SealSelection):
    """The `budget` tokens of each head that queries at the next `future` positions are expected to look at most."""

    future: int = 512
    sinks: int = 4
    epsilon: float = 0.0

    observes: ClassVar[tuple[Phase, ...]] = ("prefill", "decode")
    wants_unrotated: ClassVar[bool] = True
    query_sensitive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.future < 1:
            raise ValueError(f"future {self.future} names no position to come; set method.future to at least 1")
        if not 0 <= self.sinks < self.budget:
            raise ValueError(
                f"budget {self.budget} leaves no token beside {self.sinks} sinks; raise method.budget or lower "
                "method.sinks"
            )

    def init(self, layer: Layer, batch: int) -> QueryMoments:
        mean = torch.zeros(batch, layer.hq, layer.d, device=layer.device)
        return QueryMoments(mean, mean.new_zeros(*mean.shape, layer.d))

    @torch.no_grad()
    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        x = call.pre()[:, :, max(0, self.sinks - state.seen) :].float()
        state.seen += call.q.shape[2]
        t = x.shape[2]
        if t == 0:
            return
        mean, n = x.mean(2), state.n + t
        shift, deviation = mean - state.mean, x - mean.unsqueeze(2)
        between = shift.unsqueeze(-1) * shift.unsqueeze(-2) * (state.n * t / n)
        state.scatter = state.scatter + deviation.transpose(2, 3) @ deviation + between
        state.mean = state.mean + shift * (t / n)
        state.n = n

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        turn = self._mean_rotation(k.shape[2], k, layer)
        mean = (state.mean @ turn).unflatten(1, (layer.hkv, -1)) * layer.scale
        spread = (turn.T @ state.scatter @ turn / state.n).unflatten(1, (layer.hkv, -1)) * (layer.scale**2 / 2)
        z = torch.cat([expected_logits(tile.float(), mean, spread) for tile in k.split(TILE, 2)], -1)
        weights = z[..., self.sinks :].softmax(-1).mean(2)
        scores = (weights + self.epsilon) * v[:, :, self.sinks :].float().norm(dim=-1)
        return torch.cat([scores.new_full((*scores.shape[:2], self.sinks), float("inf")), scores], -1)

    def _mean_rotation(self, n: int, like: Tensor, layer: Layer) -> Tensor:
        """[D, D] float32, by which a row vector is rotated to the mean of positions n to n + future."""
        axes = torch.eye(layer.d, device=like.device)
        if layer.rope is None:
            return axes
        positions = arange(n, n + self.future, like)[None]
        return layer.rope.apply(axes[None, :, None].expand(-1, -1, self.future, -1), positions)[0].mean(1)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int, sealed: bool) -> Footprint:
        if sealed:
            return Footprint()
        return Footprint.of(batch * layer.hq * layer.d * (layer.d + 1) * torch.float32.itemsize, read=0)


@register(
    "expected_attention",
    family="selection",
    paper="Devoto et al. 2025, arXiv:2510.00636",
    cost="2 Hkv d (min(T, b) + generated) elements; until seal 2 Hkv d T, and Hq (d^2 + d) of query moments in fp32",
    tags=("growing", "internal", "lossy", "per head"),
)
def ExpectedAttention(budget: int = 256, future: int = 512, sinks: int = 4, epsilon: float = 0.0) -> Cached:
    """Expected attention: at the end of the prompt keep what queries to come are expected to look at.

    budget: tokens that stay in each layer and head, the first `sinks` among them; future: positions over which RoPE is
    averaged; epsilon: added to each weight before it is multiplied by the value's norm.
    """
    return Cached(ExpectedAttentionSelection(budget, future, sinks, epsilon))
