"""You only cache once (Sun et al. 2024, arXiv:2405.05254, section 2): the first half of the layers, the self-decoder,
attends in a window; its output is projected to keys and values once, and every layer of the second half, the
cross-decoder, attends to these.

    l < L/2:   the last `window` keys and values of layer l        l >= L/2:   the keys and values of layer L/2

The input of layer L/2 is the self-decoder's output, so its projections stand for the paper's global ones. The paper
has gated retention or a sliding window in the self-decoder; this is the window. The model must be trained so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kvfrontier.methods.contract import Method
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.per_layer import Layers, PerLayer
from kvfrontier.methods.registry import register
from kvfrontier.methods.selection.window import Window
from kvfrontier.methods.sharing.cla import Shared


@dataclass(frozen=True)
class Halves(PerLayer):
    """`default` in each layer of the first half; the cache of the middle layer, `full`, for all of the second."""

    choices: tuple[tuple[Layers, Method], ...] = ()
    full: Shared = field(default_factory=Shared)

    @property
    def methods(self) -> Iterator[Method]:
        yield self.default
        yield self.full

    def at(self, layer: Layer) -> Method:
        middle = layer.count // 2
        if layer.index < middle:
            return self.default.at(layer)
        return replace(self.full, first=middle, factor=layer.count - middle)

    def lossless(self, n: int) -> None:
        return None


@register(
    "yoco",
    family="sharing",
    paper="Sun et al. 2024, arXiv:2405.05254, section 2",
    cost="2 Hkv d T elements once for the model, and 2 Hkv d min(T, w) in each layer of its first half",
    tags=("growing", "internal", "lossy", "per layer"),
)
def YOCO(window: int = 1024, backend: str = "auto") -> Halves:
    """You only cache once: windows in the first half of the layers, one full cache for the second half.

    window in tokens (the paper's is 1,024). backend of the second half as in `dense`.
    """
    return Halves(Window(window), full=Shared(backend=backend))
