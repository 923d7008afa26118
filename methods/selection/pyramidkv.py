"""PyramidKV (Cai et al. 2024, arXiv:2406.02069): attention is spread out in low layers and gathers on few tokens in
high ones, so that the cache should taper with depth. Tokens are scored as in SnapKV; of the budget b - w beside the
window, layer l of L gets, along a straight line,

    b_l = b_0 - l (b_0 - b_{L-1}) / (L - 1),    b_{L-1} = (b - w) / beta,    b_0 = 2 (b - w) - b_{L-1}

The sum over layers is conserved: what a layer cannot use, since the text is shorter, goes to the others in proportion,
and whole tokens are dealt by largest remainder. `official_rounding` does as the authors' code does: it flattens the
line until layer 0 fits the text, gives every layer b where the text is shorter than 2 (b - w), and rounds its step
down. Their runs have a window of 8 and pool scores by their maximum (window=8 pooling=max); here SnapKV's window and
mean are the defaults, so that budgets are all in which the two differ.

L counts all attention layers. Those that the model itself windows keep their window, and their share is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from kvfrontier.methods.cached import Cached
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.selection.snapkv import Pooling, SnapKVSelection


def apportion(total: int, shares: Sequence[int], limit: int) -> list[int]:
    """Whole numbers in proportion to `shares`, none above `limit`, with sum `total` where the limit allows it.

    What would exceed the limit is redistributed; remainders are given to the largest, the first where equal.
    """
    full: set[int] = set()
    while True:
        rest = total - limit * len(full)
        free = [i for i in range(len(shares)) if i not in full]
        weight = sum(shares[i] for i in free)
        over = {i for i in free if rest * shares[i] > limit * weight}
        if not over:
            break
        full |= over
    given = [limit if i in full else rest * share // weight for i, share in enumerate(shares)]
    by_remainder = sorted(free, key=lambda i: -(rest * shares[i] % weight))
    for i in by_remainder[: max(0, total - sum(given)) if free else 0]:
        given[i] += 1
    return given


@functools.lru_cache(maxsize=1024)
def pyramid(n: int, budget: int, window: int, beta: int, layers: int) -> tuple[int, ...]:
    """Tokens of n that each layer keeps; their sum is that of `budget` tokens in every layer."""
    w, steps = min(n, window), max(1, layers - 1)
    # The line at whole numbers: b_l / (b - w) times beta (L - 1).
    line = [(2 * beta - 1) * steps - 2 * layer * (beta - 1) for layer in range(layers)]
    return tuple(w + b for b in apportion(layers * (min(n, budget) - w), line, n - w))


def official_pyramid(n: int, budget: int, window: int, beta: int, layers: int) -> tuple[int, ...]:
    """Tokens of n that each layer keeps, by the authors' rules."""
    past = budget - window
    if n < budget or n < 2 * past:
        return (min(n, budget),) * layers
    last = past // beta
    first = 2 * past - last
    if first >= n - window:
        first, last = n - window, 2 * past - (n - window)
    step = (first - last) // max(1, layers - 1)
    return tuple(window + first - layer * step for layer in range(layers))


@component("selection", "pyramidkv")
@dataclass(frozen=True)
class PyramidKVSelection(SnapKVSelection):
    """SnapKV with `budget` tokens a layer on average, in the lowest layers most of them."""

    beta: int = 20
    official_rounding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 1:
            raise ValueError(f"beta {self.beta} would turn the pyramid over; set method.beta to at least 1 (flat)")

    def kept(self, n: int, layer: Layer) -> int:
        rule = official_pyramid if self.official_rounding else pyramid
        return rule(n, self.budget, self.window, self.beta, layer.count)[layer.index]


@register(
    "pyramidkv",
    family="selection",
    paper="Cai et al. 2024, arXiv:2406.02069, section 4.2",
    cost="2 Hkv d (min(T, b) + generated) elements in the mean of layers; until seal 2 Hkv d T, and Hq d w of queries",
    tags=("growing", "internal", "lossy", "per head"),
)
def PyramidKV(
    budget: int = 256,
    window: int = 32,
    kernel: int = 7,
    beta: int = 20,
    official_rounding: bool = False,
    pooling: Pooling = "mean",
) -> Cached:
    """PyramidKV: SnapKV with more tokens in low layers and fewer in high ones.

    budget: tokens that stay in each layer and head, on average over layers, the window's among them; window: queries
    that vote (always kept); kernel: width of the pooling; beta: the highest layer gets 1/beta of the mean
    beside the window; official_rounding: the authors' own, whose sum falls short of the budget.
    """
    return Cached(PyramidKVSelection(budget, window, kernel, pooling, beta, official_rounding))
