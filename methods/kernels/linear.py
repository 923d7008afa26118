"""Chunked linear attention with decays, and the delta rule, by flash-linear-attention's Triton kernels (Yang and Zhang
2024, the package fla), where it is asked for: they serve what this project's own blocks (recurrent/decay.py and
recurrent/delta.py, the oracles) compute, with the same recurrences.

fla's layout is [B, T, H, D], its decays are logarithms as here, and its heads are not grouped: keys and values of a
group are repeated for the call. A single token is the recurrence itself, and takes no kernel.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.recurrent.blocks import LEAST
from kvfrontier.methods.recurrent.decay import decayed as eager_decayed
from kvfrontier.methods.recurrent.delta import delta_rule as eager_delta_rule


def decayed(
    q: Tensor, k: Tensor, v: Tensor, S: Tensor, g: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """As `recurrent.decay.decayed`, products in `dtype`: half precision is what the kernels are fast in."""
    if k.shape[2] == 1:
        return eager_decayed(q, k, v, S, g)
    fold = _Fold(q, k, v, S, dtype)
    if g is None or g.shape[-1] == 1:
        given = None if g is None else fold.each(g.expand(*k.shape[:3], 1).clamp(min=LEAST).squeeze(-1))
        return fold.back(*_fla("simple_gla").chunk_simple_gla(*fold.qkv, g=given, **fold.options))
    given = fold.each(g.expand(*k.shape[:3], -1).clamp(min=LEAST))
    return fold.back(*_fla("gla").chunk_gla(*fold.qkv, g=given, **fold.options))


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, g: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `recurrent.delta.delta_rule`. Without a decay too it is the gated kernel, which alone takes float32."""
    if k.shape[2] == 1:
        return eager_delta_rule(q, k, v, beta, S, g)
    fold = _Fold(q, k, v, S, dtype)
    decays = torch.zeros_like(beta) if g is None else g.clamp(min=LEAST)
    given, rates = (fold.each(x.expand(*k.shape[:3], 1).squeeze(-1)) for x in (decays, beta))
    rule = _fla("gated_delta_rule").chunk_gated_delta_rule
    return fold.back(*rule(*fold.qkv, g=given, beta=rates.to(dtype), **fold.options))


def _fla(room: str) -> Any:
    kernels.check("linear")
    return importlib.import_module(f"fla.ops.{room}")


class _Fold:
    """Grouped heads in fla's layout, and back."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, S: Tensor, dtype: torch.dtype) -> None:
        if reason := kernels.why_not("linear", q.device):
            raise ValueError(f"kernel 'linear' cannot run: {reason}; ask for kernel=eager")
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, S)):
            raise ValueError("kernel 'linear' is for inference here; train with kernel=eager")
        self.B, self.H, self.G = q.shape[:3]
        self.qkv = (
            q.flatten(1, 2).transpose(1, 2).to(dtype).contiguous(), self.each(k).to(dtype), self.each(v).to(dtype),
        )  # fmt: skip
        start = S.repeat_interleave(self.G, 1).float().contiguous()
        self.options = {"scale": 1.0, "initial_state": start, "output_final_state": True}

    def each(self, x: Tensor) -> Tensor:
        """[B, H, T, ...] to [B, T, H G, ...], contiguous."""
        return x.repeat_interleave(self.G, 1).transpose(1, 2).contiguous()

    def back(self, out: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, G, T, V], and one state of each group."""
        return out.float().transpose(1, 2).unflatten(1, (self.H, self.G)), S[:, :: self.G].contiguous()
