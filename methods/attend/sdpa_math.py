"""PyTorch's unfused formula: the whole T x S matrix of weights, in the dtype of the queries. No log-sum-exp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kvfrontier.methods.attend import refuse
from kvfrontier.methods.attend.eager import visible


def check() -> None:
    """Part of torch."""


def why_not(device: torch.device) -> str:
    """It runs everywhere."""
    return ""


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
    """See the package. Serves methods of one part only."""
    if lse:
        raise refuse("sdpa_math", "this method merges parts, and PyTorch's formula returns no log-sum-exp")
    if softcap is not None:
        raise refuse("sdpa_math", "it knows no soft-cap", "auto, eager or flex")
    T, S = q.shape[2], k.shape[2]
    mask = None
    if causal and (T > 1 or window is not None):
        mask = visible(torch.arange(S - T, S, device=q.device), torch.arange(S, device=q.device), window)
    with sdpa_kernel(SDPBackend.MATH):
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return o, q.new_empty(0)
