"""InfLLM (Xiao et al. 2024, arXiv:2402.04617): sinks and a local window on the device; what leaves the window goes in
blocks to host memory, from where a query looks up the few that matter to it (blocks.py).

A query attends, in one softmax, to sinks, window, the `blocks` blocks with the highest sim, and the tokens that have
left and fill no block yet. All that has left stands in one place, the cache's first: just before the sinks, so that the
farthest distance is `sinks` + `window` tokens. The official code puts the sinks there too, `window` tokens away.
"""

from __future__ import annotations

from typing import Literal

from kvfrontier.methods.axes import Positions
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.registry import register
from kvfrontier.methods.retrieval.blocks import BlockMemory
from kvfrontier.methods.selection.window import WindowSelection


@register(
    "infllm",
    family="retrieval",
    paper="Xiao et al. 2024, arXiv:2402.04617, section 3",
    cost="device: 2 Hkv d (s + w + block) elements, Hkv d a block, Hkv d (w / block + 1) in fp32; host: 2 Hkv d "
    "(T - s - w) elements, of which a decoded token moves blocks x block tokens",
    label=lambda p: "infllm" if p["positions"] == "in_cache" else "infllm_original",
    tags=("growing", "external", "lossy", "per layer"),
)
def InfLLM(
    window: int = 4096,
    sinks: int = 128,
    block: int = 128,
    blocks: int = 16,
    representatives: int = 4,
    positions: Literal["in_cache", "original"] = "in_cache",
) -> Cached:
    """InfLLM: sinks and a window, and in host memory all else in blocks, of which a query looks up the most similar.

    window, sinks and block in tokens; blocks: how many a query looks up; representatives: tokens by which a block is
    found. `positions="original"` keeps the text's own, where the paper gives all that is looked up one position.
    """
    if window < 1:
        raise ValueError(f"window {window} holds no token; set method.window to at least 1")
    return Cached(
        WindowSelection(window, sinks),
        memory=BlockMemory(block, blocks, representatives, voters=max(window, block)),
        positions=InCachePositions() if positions == "in_cache" else Positions(),
    )
