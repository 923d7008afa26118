"""Compressive Transformer (Rae et al. 2019, arXiv:1911.05507): what is too old for the window is not dropped but
compressed. A segment of `block` tokens is read behind a window of the `window` before it; when it ends, the oldest
`block` tokens leave, and each c of them become one slot of a second queue, first in, first out:

    slot_i = f(x_{ci}, ..., x_{ci+c-1}),    for keys and values;    f: mean, maximum, the last (a stride of c), or a
                                                                     convolution with stride c

Queries attend to both queues and their segment in one softmax. The paper compresses hidden states, before they become
keys and values, and trains f with a loss of its own; here each key/value head has its f, trained with the model. Of its
other choices, dilated convolutions are left out, and keeping the tokens most used is what H2O does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from kvfrontier.methods.attend import Part, choose, needs_grad
from kvfrontier.methods.axes import KeysAt, Memory, Positions, Selection
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.memory import fifo
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import called, component, register
from kvfrontier.methods.selection.block_window import BlockWindowSelection
from kvfrontier.methods.stores.dense import KV

Pooling = Literal["mean", "max", "strided", "conv"]


class Convolution(nn.Module):
    """Weights [Hkv, c, D, D] of a convolution over c tokens for the keys, and for the values. It begins as the mean."""

    def __init__(self, layer: Layer, rate: int) -> None:
        super().__init__()
        self.k, self.v = (
            nn.Parameter((torch.eye(d) / rate).expand(layer.hkv, rate, d, d).clone()) for d in (layer.d, layer.dv)
        )


@component("memory", "compressive")
@dataclass(frozen=True)
class CompressiveMemory(Memory):
    """The last `compressed` slots, each of which stands for `rate` tokens. Slots of the cache that are still empty are
    the first ones, so that the newest slot stands beside the window."""

    rate: int = 4
    compressed: int = 512
    pooling: Pooling = "mean"

    join: ClassVar[Literal["softmax", "gate"] | None] = "softmax"

    def __post_init__(self) -> None:
        if self.rate < 1 or self.compressed < 1:
            raise ValueError(
                f"rate {self.rate} and compressed {self.compressed} are tokens a slot and slots; set method.rate and "
                "method.compressed to at least 1"
            )

    @property
    def needs_training(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pooling == "conv"

    def check(self, selection: Selection) -> None:
        if selection.together % self.rate:
            raise ValueError(
                f"{called(self)} pools {self.rate} tokens into one, and {called(selection)} lets {selection.together} "
                "leave at a time; choose method/selection=block_window with a block that is a multiple of "
                "method.memory.rate"
            )

    def module(self, layer: Layer) -> Convolution | None:
        return Convolution(layer, self.rate) if self.pooling == "conv" else None

    def init(self, layer: Layer, batch: int) -> KV:
        return KV.empty(layer, batch, exact=True)

    def slots(self) -> int:
        return self.compressed

    def encode(self, k: Tensor, v: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        weights = cast("Convolution | None", layer.params)
        pooled = []
        for x, w in ((k, weights and weights.k), (v, weights and weights.v)):
            groups = x.float().unflatten(2, (-1, self.rate))
            if self.pooling == "max":
                slots = groups.amax(3)
            elif self.pooling == "strided":
                slots = groups[:, :, :, -1]
            elif self.pooling == "conv" and w is not None:
                slots = torch.einsum("bhncd,hcde->bhne", groups, w.float())
            else:
                slots = groups.mean(3)
            pooled.append(slots.to(x.dtype))
        return pooled[0], pooled[1]

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        fifo.push(state, k, v, self.compressed)

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        if state.k.n == 0:
            return None
        keys, values = keys_at(state.k.view(), self.compressed - state.k.n), state.v.view()
        attend = choose("auto", replace(layer, d=keys.shape[3]), needs_grad(q, keys, values))
        return attend(q, keys, values, scale=layer.scale, softcap=layer.softcap, causal=False)

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        return fifo.footprint(layer, batch, gone // self.rate, self.compressed)


@register(
    "compressive",
    family="memory",
    paper="Rae et al. 2019, arXiv:1911.05507, section 3",
    cost="2 Hkv d (w + (T - w) mod block + min(m, (T - w) / c)) elements",
    label=lambda p: "compressive" + ("" if p["pooling"] == "mean" else f"_{p['pooling']}"),
    tags=("fixed", "internal", "lossy", "per layer"),
)
def Compressive(
    window: int = 512,
    block: int = 512,
    rate: int = 4,
    compressed: int = 512,
    pooling: Pooling = "mean",
    positions: Literal["in_cache", "original"] = "in_cache",
) -> Cached:
    """Compressive Transformer: a window, and before it slots that each pool several older tokens.

    window tokens stay, and up to block - 1 more; block: tokens that leave at a time; rate: tokens a slot; compressed:
    slots at most (512 each in the paper's model of WikiText-103); pooling: "mean", "max", "strided" (the newest of each
    group), or "conv", a learned convolution, which is the paper's and needs training. positions: those in the cache, or
    with "original" the text's, under which keys are pooled after RoPE.
    """
    return Cached(
        BlockWindowSelection(window, block),
        memory=CompressiveMemory(rate, compressed, pooling),
        positions=InCachePositions() if positions == "in_cache" else Positions(),
    )
