"""PyTorch's memory-efficient kernel (cutlass) on CUDA, with its log-sum-exp. It takes float32 too; grouped heads are
expanded, except for one query, whose heads become rows."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.attend import needs_cuda, needs_grad, refuse

#: The kernel's name for "query t of T sees keys 0 .. S - T + t".
_LOWER_RIGHT = 2


def check() -> None:
    """Part of torch."""


def why_not(device: torch.device) -> str:
    """For CUDA alone."""
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
    """See the package."""
    if softcap is not None:
        raise refuse("sdpa_efficient", "it knows no soft-cap", "auto, eager or flex")
    if reason := why_not(q.device):
        raise refuse("sdpa_efficient", reason)
    if needs_grad(q, k, v):
        raise refuse("sdpa_efficient", "its log-sum-exp has no gradient, which training needs")
    shape, T = q.shape, q.shape[2]
    if T == 1:
        if causal and window is not None:
            k, v = k[:, :, -window:], v[:, :, -window:]
        q, causal, window = q.reshape(shape[0], k.shape[1], -1, shape[3]), False, None
    elif shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(shape[1] // k.shape[1], 1) for x in (k, v))
    out, total, *_ = torch.ops.aten._efficient_attention_forward(
        *(x.transpose(1, 2) for x in (q, k, v)), None, None, None, None, None, 0.0, _LOWER_RIGHT if causal else 0, True,
        scale=scale, window_size=window,
    )  # fmt: skip
    rows = q.shape[2]  # the kernel rounds up the rows of its log-sum-exp
    return out.transpose(1, 2).reshape(*shape[:3], -1), total[..., :rows].reshape(shape[:3])
