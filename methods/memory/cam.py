"""CaM, cache merging (Zhang et al. 2024, ICML, openreview.net/forum?id=LCTmppB165): dropping a token takes its share
out of every output to come. So its value may go, in equal parts, into those of the local window, the newest m tokens,
the likelier the more attention it received beside theirs. With A the attention that a token has received so far,

    M ~ Bernoulli(min(1, A_i / mean of A over the local window))                 (equation 14)
    v_s <- v_s + M v_i / m     for the m tokens s of the local window            (algorithm 1)

Keys stay as they are, and the token's own goes. Which token is evicted, and the count A of what it received, are the
selection's: H2O's, over the tokens still there. Nothing is held but how many have left. The newest tokens have received
little yet, so that equation 14 merges nearly all that leaves; the official code divides by the largest A of the cache
instead (`against`), and its local window is the tokens that follow in the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods.axes import Memory, Selection, gather
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.draws import RANGE, draw
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import called, component, register
from kvfrontier.methods.selection.h2o import H2OSelection
from kvfrontier.methods.state import State

Against = Literal["window", "cache"]


@dataclass
class Gone(State):
    """n: tokens that have left."""

    n: int = 0


@component("memory", "cam")
@dataclass(frozen=True)
class CamMemory(Memory):
    """What leaves is merged into the newest `local` tokens that stay, or not: by the attention it received, against the
    mean of theirs or the largest of the cache. Another `seed` draws otherwise."""

    local: int = 32
    against: Against = "window"
    seed: int = 0

    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.local < 1:
            raise ValueError(f"local {self.local} is no token to merge into; set method.local to at least 1")

    def check(self, selection: Selection) -> None:
        if not selection.counts:
            raise ValueError(
                f"cam merges by the attention that tokens have received, and {called(selection)} keeps no count of it; "
                "choose method/selection=h2o"
            )

    def init(self, layer: Layer, batch: int) -> Gone:
        return Gone()

    def merge(
        self, state: Any, k: Tensor, v: Tensor, keep: Tensor, gone: Tensor, received: Tensor | None, layer: Layer
    ) -> tuple[Tensor, Tensor]:
        assert received is not None
        m, n = min(self.local, keep.shape[2]), gone.shape[2]
        theirs = received.gather(2, keep)
        theirs = theirs[..., -m:].mean(2, True) if self.against == "window" else theirs.amax(2, True)
        chance = received.gather(2, gone) / theirs.clamp(min=torch.finfo(torch.float32).tiny)
        merged = draw(state.n, state.n + n, k, layer, self.seed) < chance.clamp(max=1).double() * RANGE
        state.n += n
        added = (gather(v, gone).float() * merged.unsqueeze(3)).sum(2, keepdim=True) / m
        older, local = gather(v, keep).split([keep.shape[2] - m, m], 2)
        return gather(k, keep), torch.cat([older, (local.float() + added).to(v.dtype)], 2)


@register(
    "cam",
    family="memory",
    paper="Zhang et al. 2024 (ICML), equation 14 and algorithm 1, over H2O's selection",
    cost="2 Hkv d min(T, b) elements, and Hkv min(T, b) of mass in fp32",
    label=lambda p: "cam" if p["against"] == "window" else "cam_cache",
    tags=("fixed", "internal", "lossy", "per head"),
)
def CaM(
    budget: int = 256,
    recent: int | None = None,
    block: int = 1,
    local: int = 32,
    against: Against = "window",
    seed: int = 0,
) -> Cached:
    """CaM: H2O, whose evicted values are merged into the newest ones, more likely the more attention they received.

    budget, recent, block: which tokens stay, as for h2o; local: newest tokens among which a value is shared out;
    against: what its attention is compared with, the mean of these (the paper) or the largest of the cache (the
    authors' code); seed: of the draws.
    """
    return Cached(H2OSelection(budget, block, recent), memory=CamMemory(local, against, seed))
