"""FlashAttention-4, written in CuTe DSL, for Hopper and Blackwell: the package flash-attn-4, an extra:
`pip install kvfrontier[flash_attn_4]`. It compiles at the first use of each shape's kind."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import NoBackend, needs_cuda, needs_grad, refuse


def check() -> None:
    """Raise NoBackend where the package is not installed."""
    # Asking for flash_attn.cute would import flash_attn; what it is written in is installed with it alone.
    if importlib.util.find_spec("flash_attn") is None or importlib.util.find_spec("cutlass") is None:
        raise NoBackend(
            "backend 'flash_attn_4' needs a package that is not installed: pip install 'kvfrontier[flash_attn_4]'"
        )


def why_not(device: torch.device) -> str:
    """For Hopper and later."""
    return needs_cuda(device, (9, 0))


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
    if reason := why_not(q.device):
        raise refuse("flash_attn_4", reason)
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("flash_attn_4", f"it takes half precision, not {q.dtype}")
    if needs_grad(q, k, v):
        raise refuse("flash_attn_4", "its log-sum-exp has no gradient here, which training needs")
    options: dict[str, Any] = {"softmax_scale": scale, "causal": causal}
    if window is not None and causal and window < k.shape[2]:
        options["window_size"] = (window - 1, 0)
    if softcap is not None:
        options["softcap"] = softcap
    call = importlib.import_module("flash_attn.cute").flash_attn_func
    o, total = call(*(x.transpose(1, 2) for x in (q, k, v)), return_lse=True, **options)
    return o.transpose(1, 2), total
