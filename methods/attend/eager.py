"""The oracle: logits, mask, softmax, product, in float32, written out. Queries go in blocks of 256, so that memory is
linear in the number of keys."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256


def check() -> None:
    """Always there."""


def why_not(device: torch.device) -> str:
    """It runs everywhere."""
    return ""


def logits(q: Tensor, k: Tensor, scale: float, softcap: float | None = None) -> Tensor:
    """Logits [B, Hkv, G, T, S] of grouped queries in float32, G = Hq / Hkv."""
    grouped = q.unflatten(1, (k.shape[1], -1)).float()
    x = torch.einsum("bhgtd,bhsd->bhgts", grouped, k.float()) * scale
    return x if softcap is None else softcap * torch.tanh(x / softcap)


def visible(t: Tensor, s: Tensor, window: int | None) -> Tensor:
    """[T, S] bool: a query at key position t sees key s."""
    mask = s <= t[:, None]
    return mask if window is None else mask & (s > t[:, None] - window)


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
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See the package. `mask` [T, S] bool instead of `causal` serves any other pattern; a row that sees nothing has
    lse -inf and output zero (and no useful gradient)."""
    T, S = q.shape[2], k.shape[2]
    first = S - T
    outputs, sums = [], []
    for a in range(0, T, BLOCK):
        b = min(T, a + BLOCK)
        begin, end = 0, S
        if causal:
            end = first + b
            begin = 0 if window is None else max(0, first + a - window + 1)
        x = logits(q[:, :, a:b], k[:, :, begin:end], scale, softcap)
        if causal and (b - a > 1 or window is not None):
            t = torch.arange(first + a, first + b, device=q.device)
            x = x.masked_fill(~visible(t, torch.arange(begin, end, device=q.device), window), float("-inf"))
        elif mask is not None:
            x = x.masked_fill(~mask[a:b], float("-inf"))
        total = x.logsumexp(-1)
        weights = torch.exp(x - (total if mask is None else total.nan_to_num(neginf=0.0)).unsqueeze(-1))
        outputs.append(torch.einsum("bhgts,bhsd->bhgtd", weights, v[:, :, begin:end].float()).flatten(1, 2))
        sums.append(total.flatten(1, 2))
    return torch.cat(outputs, 2).to(q.dtype), torch.cat(sums, 2)
