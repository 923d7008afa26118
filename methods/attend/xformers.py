"""xFormers' memory-efficient attention, an extra: `pip install kvfrontier[xformers]`."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from kvfrontier.methods.attend import NoBackend, needs_cuda, refuse


def check() -> None:
    """Raise NoBackend where the package is not installed."""
    if importlib.util.find_spec("xformers") is None:
        raise NoBackend("backend 'xformers' needs a package that is not installed: pip install 'kvfrontier[xformers]'")


def why_not(device: torch.device) -> str:
    """It has operators for CUDA alone."""
    return needs_cuda(device)


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
    """See the package. Grouped heads go as xFormers' fifth dimension [B, T, Hkv, G, D], expanded without a copy."""
    check()
    if softcap is not None:
        raise refuse("xformers", "it knows no soft-cap", "auto, eager or flex")
    if q.device.type != "cuda":
        raise refuse("xformers", f"it has no operator on {q.device.type}")
    from xformers.ops import fmha  # pyright: ignore[reportMissingImports]

    bias = None
    if causal and window is None:
        bias = fmha.attn_bias.LowerTriangularFromBottomRightMask()
    elif causal:
        bias = fmha.attn_bias.LowerTriangularFromBottomRightLocalAttentionMask(window)
    group = q.shape[1] // k.shape[1]
    q5 = q.unflatten(1, (k.shape[1], group)).permute(0, 3, 1, 2, 4)
    k5, v5 = (x.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, group, -1) for x in (k, v))
    o, total = fmha.memory_efficient_attention_forward_requires_grad(q5, k5, v5, attn_bias=bias, scale=scale)
    return o.flatten(2, 3).transpose(1, 2), total.flatten(1, 2)[..., : q.shape[2]]
