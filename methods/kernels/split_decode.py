"""One query against keys and values where they lie: dense, or single slots or pages of them (Flash-Decoding, Dao et al.
2023, in splits of the cache).

The heads of a group are rows of one program, so that a key is read once for all of them. With `chosen`, only those
pages of `page` tokens are read (Quest, InfLLM): nothing is gathered beforehand. With `lengths`, each sequence's number
of tokens is read on the device, so that one CUDA graph serves a growing cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.kernels.runtime import (
    attended,
    combine,
    exact,
    jit,
    padded,
    partials,
    require,
    splits,
    tl,
    tuned,
    written,
)


def eager(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, softcap: float | None = None, chosen: Tensor | None = None,
    page: int = 1, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The oracle of `run`."""
    from kvfrontier.methods.attend.eager import logits

    x = logits(q, k, scale, softcap)  # [B, Hkv, G, 1, S]
    B, Hkv, S = k.shape[:3]
    seen = torch.ones(B, Hkv, S, dtype=torch.bool, device=q.device)
    if chosen is not None:
        slots = (chosen.unsqueeze(-1) * page + torch.arange(page, device=q.device)).flatten(2)
        seen = torch.zeros(B, Hkv, S + page, dtype=torch.bool, device=q.device)
        seen = seen.scatter(2, slots.expand(B, Hkv, -1), True)[..., :S]
    if lengths is not None:
        seen = seen & (torch.arange(S, device=q.device) < lengths[:, None, None])
    x = x.masked_fill(~seen[:, :, None, None], float("-inf"))
    o = torch.softmax(x, -1) @ v.float().unsqueeze(2)
    return o.flatten(1, 2).to(q.dtype), x.logsumexp(-1).flatten(1, 2)


def run(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, softcap: float | None = None, chosen: Tensor | None = None,
    page: int = 1, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output [B, Hq, 1, Dv] and log-sum-exp [B, Hq, 1] of q [B, Hq, 1, D] against k [B, Hkv, S, D], v [B, Hkv, S, Dv].

    chosen   [B, Hkv, m] (or [B, 1, m]) integers: only these pages of `page` tokens are read, each once; what a page
             has beyond S is not. page=1: single slots
    lengths  [B] int32: of each sequence only so many tokens are seen
    """
    require("split_decode", q, k, v)
    B, Hq, _, D = q.shape
    Hkv, S, V = k.shape[1], k.shape[2], v.shape[3]
    tokens = S if chosen is None else chosen.shape[2] * page
    n = splits(tokens, B * Hkv, q.device)
    o, lse = partials(q, n, V)
    pages = q if chosen is None else chosen
    _kernel[(n, B * Hkv)](
        q, k, v, pages, q if lengths is None else lengths, o, lse,
        scale, tokens, S, n,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        0 if chosen is None else chosen.stride(0),
        0 if chosen is None or chosen.shape[1] == 1 else chosen.stride(1),
        HKV=Hkv, GROUP=Hq // Hkv, D=D, V=V, R=padded(Hq // Hkv), DT=padded(D), VT=padded(V),
        PAGE=page, CHOSEN=chosen is not None, LENGTHS=lengths is not None, CAP=softcap or 0.0, EXACT=exact(q.dtype),
    )  # fmt: skip
    return combine(o, lse, q.dtype)


@tuned(
    [
        {"BLOCK": 64, "num_warps": 4, "num_stages": 3},
        {"BLOCK": 128, "num_warps": 4, "num_stages": 2},
        {"BLOCK": 128, "num_warps": 8, "num_stages": 3},
        {"BLOCK": 32, "num_warps": 2, "num_stages": 4},
    ],
    key=["GROUP", "D", "V", "PAGE", "CHOSEN"],
)
@jit
def _kernel(
    q_at, k_at, v_at, chosen_at, lengths_at, o_at, lse_at,
    scale, tokens, held, n_splits,
    q_b, q_h, k_b, k_h, k_t, v_b, v_h, v_t, c_b, c_h,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
    VT: tl.constexpr, PAGE: tl.constexpr, CHOSEN: tl.constexpr, LENGTHS: tl.constexpr, CAP: tl.constexpr,
    EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (split, sequence and key/value head)."""
    split, b, h = tl.program_id(0), (tl.program_id(1) // HKV).to(tl.int64), (tl.program_id(1) % HKV).to(tl.int64)
    row, column, wide = tl.arange(0, R), tl.arange(0, DT), tl.arange(0, VT)
    head = h * GROUP + row
    real = row < GROUP
    q = tl.load(
        q_at + b * q_b + head[:, None] * q_h + column[None, :], mask=real[:, None] & (column[None, :] < D), other=0.0
    )
    seen = held
    if LENGTHS:
        seen = tl.minimum(held, tl.load(lengths_at + b))
        if not CHOSEN:
            tokens = seen
    blocks = tl.cdiv(tokens, BLOCK)
    each = tl.cdiv(blocks, n_splits)
    m, mass = tl.full([R], -1.0e30, tl.float32), tl.zeros([R], tl.float32)
    acc = tl.zeros([R, VT], tl.float32)
    for block in range(split * each, tl.minimum(blocks, (split + 1) * each)):
        entry = block * BLOCK + tl.arange(0, BLOCK)
        there = entry < tokens
        slot = entry.to(tl.int64)
        if CHOSEN:
            page = tl.load(chosen_at + b * c_b + h * c_h + entry // PAGE, mask=there, other=0).to(tl.int64)
            slot = page * PAGE + entry % PAGE
            there = there & (slot < seen)
        k = tl.load(
            k_at + b * k_b + h * k_h + slot[:, None] * k_t + column[None, :],
            mask=there[:, None] & (column[None, :] < D), other=0.0,
        )  # fmt: skip
        v = tl.load(
            v_at + b * v_b + h * v_h + slot[:, None] * v_t + wide[None, :],
            mask=there[:, None] & (wide[None, :] < V), other=0.0,
        )  # fmt: skip
        m, mass, acc = attended(q, k, v, there[None, :], m, mass, acc, scale, CAP, EXACT)
    heads = b * HKV * GROUP + head
    written(o_at, lse_at, heads, split, n_splits, real, m, mass, acc, V, VT)
