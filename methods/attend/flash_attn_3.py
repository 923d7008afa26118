"""FlashAttention-3 (Shah et al. 2024) for Hopper: the package fa3-fwd, an extra, or a build of the official sources:
`pip install kvfrontier[flash_attn_3]`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.attend import NoBackend, needs_cuda, needs_grad, refuse

#: Where builds put it, the official one first.
MODULES = ("flash_attn_interface", "fa3_fwd_interface")


def _module() -> str | None:
    return next((name for name in MODULES if importlib.util.find_spec(name)), None)


def check() -> None:
    """Raise NoBackend where no build is installed."""
    if _module() is None:
        raise NoBackend(
            "backend 'flash_attn_3' needs a package that is not installed: pip install 'kvfrontier[flash_attn_3]'"
        )


def why_not(device: torch.device) -> str:
    """For Hopper."""
    reason = needs_cuda(device, (9, 0))
    if not reason and torch.cuda.get_device_capability(device)[0] != 9:
        return "its kernels are for Hopper (compute capability 9)"
    return reason


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
        raise refuse("flash_attn_3", reason)
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("flash_attn_3", f"it takes half precision, not {q.dtype}")
    if needs_grad(q, k, v):
        raise refuse("flash_attn_3", "its log-sum-exp has no gradient, which training needs")
    call, asked = _function()
    options: dict[str, Any] = {"softmax_scale": scale, "causal": causal, **asked}
    if window is not None and causal and window < k.shape[2]:
        options["window_size"] = (window - 1, 0)
    if softcap is not None:
        options["softcap"] = softcap
    if q.shape[2] == 1:
        options["num_splits"] = 0  # as many as keep the device busy
    found = call(*(x.transpose(1, 2) for x in (q, k, v)), **options)
    return found[0].transpose(1, 2), found[1]


@functools.cache
def _function() -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function, and how it is asked for the log-sum-exp: older builds give it always."""
    call = importlib.import_module(_module() or MODULES[0]).flash_attn_func
    asks = "return_attn_probs" in inspect.signature(call).parameters
    return call, {"return_attn_probs": True} if asks else {}
