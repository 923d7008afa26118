"""FlashAttention-2 (Dao 2023), the flash-attn package, an extra: `pip install kvfrontier[flash_attn]`."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from kvfrontier.methods.attend import NoBackend, needs_cuda, refuse


def check() -> None:
    """Raise NoBackend where the package is not installed."""
    # The compiled part: FlashAttention-4 brings a package `flash_attn` too.
    if importlib.util.find_spec("flash_attn_2_cuda") is None:
        raise NoBackend(
            "backend 'flash_attn' needs a package that is not installed: pip install 'kvfrontier[flash_attn]'"
        )


def why_not(device: torch.device) -> str:
    """For Ampere and later."""
    return needs_cuda(device, (8, 0))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None = None,
    softcap: float | None = None,
    lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """See the package. Half precision on CUDA."""
    check()
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("flash_attn", f"it needs half precision on CUDA, not {q.dtype} on {q.device.type}")
    o, total, _ = importlib.import_module("flash_attn").flash_attn_func(
        *(x.transpose(1, 2) for x in (q, k, v)),
        softmax_scale=scale,
        causal=causal,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
        return_attn_probs=True,
    )
    return o.transpose(1, 2), total
