"""PyTorch's flex_attention, compiled. On CPU the first call compiles for some twenty seconds, there is no backward and
no log-sum-exp, so that it serves methods of one part only."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from kvfrontier.methods.attend import needs_grad, refuse


def check() -> None:
    """Part of torch; compiling needs a C++ compiler on CPU."""


def why_not(device: torch.device) -> str:
    """Compiled on CPU, without a log-sum-exp, and on CUDA."""
    return "" if device.type in ("cpu", "cuda") else f"it is not compiled for {device.type}"


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


@functools.lru_cache(maxsize=8)
def _mask(T: int, S: int, window: int | None, device: torch.device) -> Any:
    first = S - T

    def sees(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        causal = s <= t + first
        return causal if window is None else causal & (s > t + first - window)

    return create_block_mask(sees, None, None, T, S, device=device)  # pyright: ignore[reportArgumentType]


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
    on_cpu = q.device.type == "cpu"
    if on_cpu and lse:
        raise refuse("flex", "this method merges parts, and on CPU flex returns no log-sum-exp")
    if on_cpu and needs_grad(q, k, v):
        raise refuse("flex", "it has no backward on CPU")

    def cap(x: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(x / softcap)

    T, S = q.shape[2], k.shape[2]
    options: dict[str, Any] = {"scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if causal and (T > 1 or window is not None):
        options["block_mask"] = _mask(T, S, window, q.device)
    if softcap is not None:
        options["score_mod"] = cap
    if not lse:
        return _compiled()(q, k, v, **options), q.new_empty(0)
    o, aux = _compiled()(q, k, v, return_aux=AuxRequest(lse=True), **options)
    return o, aux.lse
