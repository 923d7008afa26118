"""Our own kernels in Triton (kernels/), an extra: `pip install kvfrontier[triton]`. One query in splits of the cache,
or against the slots that it chose, many in blocks; heads of unequal length where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.attend import NoBackend, needs_grad, refuse
from kvfrontier.methods.kernels import ragged_decode, split_decode, window_sinks


def check() -> None:
    """Raise NoBackend where Triton is not installed."""
    try:
        kernels.check("split_decode")
    except kernels.NoKernel as missing:
        raise NoBackend(str(missing).replace("kernel 'split_decode'", "backend 'triton'")) from missing


def why_not(device: torch.device) -> str:
    """For CUDA, and elsewhere in Triton's interpreter."""
    return kernels.why_not("split_decode", device)


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
    _check(q, k, v)
    T, S = q.shape[2], k.shape[2]
    if T == 1:
        if causal and window is not None:
            k, v = (x[:, :, max(0, S - window) :] for x in (k, v))
        return split_decode.run(q, k, v, scale=scale, softcap=softcap)
    if causal:
        return window_sinks.run(q, k, v, scale=scale, window=window, softcap=softcap)
    # All see all: as if the keys were sinks, and no query saw another key.
    return window_sinks.run(q, k, v, scale=scale, softcap=softcap, everything=True)


def attend_slots(
    q: Tensor, k: Tensor, v: Tensor, slots: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """One query [B, Hq, 1, D] against single slots [B, Hkv, m] of k and v, which are not gathered first."""
    _check(q, k, v)
    return split_decode.run(q, k, v, scale=scale, softcap=softcap, chosen=slots)


def attend_ragged(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """One query [B, Hq, 1, D] against heads of `lengths` [B, Hkv] entries, one after the other in k, v [B, N, D]."""
    _check(q, k, v)
    return ragged_decode.run(q, k, v, lengths, scale=scale, softcap=softcap)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    check()
    if reason := why_not(q.device):
        raise refuse("triton", reason)
    if needs_grad(q, k, v):
        raise refuse("triton", "its kernels have no gradient, which training needs")
