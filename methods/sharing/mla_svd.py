"""A pretrained model's keys and values as latents: the joint singular value decomposition of a layer's key and value
projections, cut at a rank (MHA2MLA, Ji et al. 2025, arXiv:2502.14837, section 3.2, "joint").

    [W_k ; W_v] = U S V^T,   c_t = U_r^T [k_t ; v_t] = S_r V_r^T x_t,   [k_t ; v_t] ~ U_r c_t

k_t is the key before RoPE. MHA2MLA keeps RoPE in few dimensions of a head and cuts the others, and TransMLA (Meng et
al. 2025, arXiv:2502.07864) turns the heads so that few dimensions need it; both change the model, so that queries can
absorb U. Here RoPE stays whole: keys are computed from their latents and rotated when they are attended. So nothing
but the rank is lost, the state is the latents alone, and the full rank is dense attention; a low rank needs training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kvfrontier.methods.axes import arange
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import register
from kvfrontier.methods.sharing.latents import ExpandedStore


class Factors(nn.Module):
    """up [Hkv (D + Dv), rank]: U_r, from a latent to keys and values; bias [Hkv (D + Dv)]: of their projections."""

    def __init__(self, layer: Layer, rank: int):
        super().__init__()
        projections = layer.module.k_proj, layer.module.v_proj
        weight = torch.cat([p.weight.detach() for p in projections]).float()
        up = torch.linalg.svd(weight, full_matrices=False).U[:, :rank]
        biases = [weight.new_zeros(p.weight.shape[0]) if p.bias is None else p.bias.detach() for p in projections]
        self.up = nn.Parameter(up.to(layer.dtype).contiguous())
        self.bias = nn.Parameter(torch.cat(biases).to(layer.dtype))

    def down(self, k: Tensor, v: Tensor) -> Tensor:
        """Latents [B, 1, T, rank] of keys before RoPE and values [B, Hkv, T, D]."""
        heads = torch.cat([x.transpose(1, 2).flatten(2) for x in (k, v)], -1)
        return ((heads - self.bias) @ self.up).unsqueeze(1)


@dataclass(frozen=True)
class SvdLatents(ExpandedStore):
    """`rank` elements a token; None: as many as the projections have."""

    rank: int | None

    def width(self, layer: Layer) -> int:
        return full_rank(layer) if self.rank is None else self.rank

    def expand(self, x: Tensor, slot: int, layer: Layer) -> tuple[Tensor, Tensor]:
        factors: Any = layer.params
        k, v = (x[:, 0] @ factors.up.T + factors.bias).split([layer.hkv * layer.d, layer.hkv * layer.dv], -1)
        k, v = (y.unflatten(2, (layer.hkv, -1)).transpose(1, 2) for y in (k, v))
        return k if layer.rope is None else layer.rope.apply(k, arange(slot, slot + k.shape[2], k)[None]), v


def full_rank(layer: Layer) -> int:
    """The rank of a layer's key and value projections together."""
    rows = layer.hkv * (layer.d + layer.dv)
    return rows if layer.module is None else min(rows, layer.module.k_proj.weight.shape[1])


@dataclass(frozen=True)
class LowRank(Method):
    """Keys and values of `rank` latent elements a token."""

    rank: int | None = None
    backend: str = "auto"

    needs_training: ClassVar[bool] = True
    unrotated: ClassVar[bool] = True
    knob: ClassVar[str | None] = "rank"

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank {self.rank} keeps nothing of a token; set method.rank to at least 1")

    @property
    def inner(self) -> Cached:
        return Cached(store=SvdLatents(self.rank), backend=self.backend)

    def validate(self, layer: Layer) -> None:
        module = layer.module
        projections = (getattr(module, name, None) for name in ("k_proj", "v_proj"))
        if module is not None and not all(isinstance(p, nn.Linear) for p in projections):
            raise ValueError(
                f"{type(module).__name__} has no k_proj and v_proj of its own to decompose; choose another model"
            )
        if getattr(module, "k_norm", None) is not None:
            raise ValueError(
                f"{type(module).__name__} normalizes its keys, which are then of no low rank; choose another model"
            )
        if self.rank is not None and self.rank > full_rank(layer):
            raise ValueError(
                f"rank {self.rank} is more than the {full_rank(layer)} that the keys and values of layer "
                f"{layer.index} have together; lower method.rank"
            )

    def module(self, layer: Layer) -> Factors:
        return Factors(layer, SvdLatents(self.rank).width(layer))

    def init_state(self, layer: Layer, batch: int) -> Any:
        return self.inner.init_state(layer, batch)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        factors: Any = layer.params
        c = factors.down(step.pre()[1], v)
        return self.inner.attend(q, c, c, state, layer, step)

    def seal(self, state: Any, layer: Layer) -> None:
        self.inner.seal(state, layer)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self.inner.footprint(layer, batch, prompt, new, sealed)

    def lossless(self, n: int) -> LowRank:
        return replace(self, rank=None)


@register(
    "mla_svd",
    family="sharing",
    paper="Ji et al. 2025, arXiv:2502.14837, section 3.2",
    cost="r T elements for all heads together; the factors are weights, Hkv (d + dv) r a layer",
    tags=("growing", "internal", "lossy", "per layer"),
)
def MLASVD(rank: int = 64, backend: str = "auto") -> LowRank:
    """Latents of a pretrained model: its key and value projections cut at a joint rank, keys rotated when attended.

    rank: elements kept of a token in each layer, of Hkv (d + dv): 64 are a sixth of SmolLM2-135M's 384, and few for a
    larger model. backend as in `dense`.
    """
    return LowRank(rank, backend)
