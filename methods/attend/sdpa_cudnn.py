"""cuDNN's fused attention as PyTorch calls it, in half precision on CUDA, with its log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part, merge, needs_cuda, needs_grad, refuse


def check() -> None:
    """Part of torch."""


def why_not(device: torch.device) -> str:
    """For Ampere and later, with cuDNN."""
    missing = "" if torch.backends.cudnn.is_available() else "this build of torch has no cuDNN"
    return needs_cuda(device, (8, 0)) or missing


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
    """See the package. A window is served for one query alone, whose keys can be cut."""
    if softcap is not None:
        raise refuse("sdpa_cudnn", "PyTorch gives it no soft-cap", "auto, eager or flex")
    if reason := why_not(q.device):
        raise refuse("sdpa_cudnn", reason)
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("sdpa_cudnn", f"it takes half precision, not {q.dtype}")
    if needs_grad(q, k, v):
        raise refuse("sdpa_cudnn", "its log-sum-exp has no gradient here, which training needs")
    (T, S), shape = (q.shape[2], k.shape[2]), q.shape
    if causal and window is not None and window < S and T > 1:
        raise refuse("sdpa_cudnn", "PyTorch gives it no window for several queries", "sdpa, flex or flash_attn")
    if T == 1:
        k, v = (x[:, :, max(0, S - window) :] if causal and window is not None else x for x in (k, v))
        o, total = _call(q.reshape(shape[0], k.shape[1], -1, shape[3]), k, v, scale, False)
        return o.reshape(*shape[:3], -1), total.reshape(shape[:3])
    if not causal or S == T:
        return _call(q, k, v, scale, causal)
    # Its causal mask begins in the upper left corner: the past, which all see, and the chunk go apart.
    past = _call(q, k[:, :, : S - T], v[:, :, : S - T], scale, False)
    return merge([past, _call(q, k[:, :, S - T :], v[:, :, S - T :], scale, True)])


def _call(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Part:
    o, total, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return o, total.reshape(q.shape[:3])
