"""PyTorch's own fused kernels, by the operators that also return the log-sum-exp. Never T x S memory.

CPU: the flash kernel. CUDA: FlashAttention-2 as PyTorch ships it, in half precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvfrontier.methods.attend import merge, needs_grad, refuse

#: Queries of one masked block; a band of `window` keys is computed in such blocks.
BLOCK = 256
#: The shortest stretch of keys that is worth a part of its own.
STRETCH = 2048


def check() -> None:
    """Always there."""


def why_not(device: torch.device) -> str:
    """Where there is no kernel with a log-sum-exp."""
    return "" if device.type in ("cpu", "cuda") else f"no kernel with a log-sum-exp on {device.type}"


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
    """See the package. Raises ValueError for soft-capping, for values of another width than keys and while a gradient
    is needed: the kernels have no soft-cap, and their log-sum-exp has no gradient."""
    if softcap is not None:
        raise refuse("sdpa", "its kernels know no soft-cap", "auto, eager or flex")
    if q.shape[-1] != v.shape[-1]:
        raise refuse("sdpa", "values and keys differ in width")
    if needs_grad(q, k, v):
        raise refuse("sdpa", "its log-sum-exp has no gradient, which training needs")
    if window is not None and window >= k.shape[2]:
        window = None
    if q.device.type == "cuda":
        return _cuda(q, k, v, scale, causal, window)
    if q.device.type != "cpu":
        raise refuse("sdpa", f"no kernel with a log-sum-exp on {q.device.type}")
    return _cpu(q, k, v, scale, causal, window, lse)


def _cpu(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None, lse: bool
) -> tuple[Tensor, Tensor]:
    T, S = q.shape[2], k.shape[2]
    if T == 1:
        if causal and window is not None:
            k, v = k[:, :, S - window :], v[:, :, S - window :]
        return _one(q, k, v, scale, lse)
    if not causal:
        return _flash(q, k, v, scale)
    if window is None:
        if S == T:
            return _flash(q, k, v, scale, is_causal=True)
        # is_causal means the upper left corner: the past, which all see, and the chunk go apart.
        past = _flash(q, k[:, :, : S - T], v[:, :, : S - T], scale)
        return merge([past, _flash(q, k[:, :, S - T :], v[:, :, S - T :], scale, is_causal=True)])
    outputs, sums = [], []
    for a in range(0, T, BLOCK):
        b = min(T, a + BLOCK)
        begin, end = max(0, S - T + a - window + 1), S - T + b
        t = torch.arange(S - T + a, end, device=q.device)[:, None]
        s = torch.arange(begin, end, device=q.device)
        mask = q.new_zeros(b - a, end - begin).masked_fill_((s > t) | (s <= t - window), float("-inf"))
        o, total = _flash(q[:, :, a:b], k[:, :, begin:end], v[:, :, begin:end], scale, attn_mask=mask)
        outputs.append(o)
        sums.append(total)
    return (outputs[0], sums[0]) if len(outputs) == 1 else (torch.cat(outputs, 2), torch.cat(sums, 2))


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float, lse: bool) -> tuple[Tensor, Tensor]:
    """One query that sees all keys: the heads of a group become rows, so that keys are read once. The kernel gives
    each key/value head to a thread; where that leaves threads idle, every head is cut into stretches of keys."""
    B, Hkv, S = k.shape[:3]
    rows = q.reshape(B, Hkv, -1, q.shape[3])
    n = _stretches(B, Hkv, S)
    if n == 1:
        o, total = _flash(rows, k, v, scale)
        return o.reshape(q.shape), total.reshape(q.shape[:3]) if lse else total
    h = S // n
    o, total = _flash(rows.expand(n, -1, -1, -1), _stretched(k, n, h), _stretched(v, n, h), scale)
    if n * h < S:
        rest = _flash(rows, k.narrow(2, n * h, S - n * h), v.narrow(2, n * h, S - n * h), scale)
        o, total = torch.cat([o, rest[0]]), torch.cat([total, rest[1]])
    o = (o * total.softmax(0).unsqueeze(-1)).sum(0).to(q.dtype)
    return o.reshape(q.shape), total.logsumexp(0).reshape(q.shape[:3]) if lse else total


def _stretches(B: int, Hkv: int, S: int) -> int:
    """Into how many stretches the keys of one query are cut, so that all threads have as much to do."""
    threads = torch.get_num_threads()
    # The heads of several sequences lie too irregularly for one call, and keep more threads busy.
    return 1 if B > 1 else max(1, min(threads // math.gcd(Hkv, threads), S // STRETCH))


def _stretched(x: Tensor, n: int, h: int) -> Tensor:
    """The first n h tokens of x [1, Hkv, S, D] as n sequences [n, Hkv, h, D]; no copy."""
    _, head, token, channel = x.stride()
    return x.as_strided((n, x.shape[1], h, x.shape[3]), (h * token, head, token, channel))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool = False, attn_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if attn_mask is not None:
        attn_mask = attn_mask[None, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, is_causal, attn_mask=attn_mask, scale=scale
    )


def _cuda(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None) -> tuple[Tensor, Tensor]:
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("sdpa", f"its CUDA kernel with a log-sum-exp takes half precision, not {q.dtype}")
    # Bottom-right causal, grouped heads and windows are the kernel's own. Layout [B, T, H, D].
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    o, total, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=scale,
        window_size_left=None if window is None else window - 1,
        window_size_right=0 if causal and window is not None else None,
    )  # fmt: skip
    return o.transpose(1, 2), total
