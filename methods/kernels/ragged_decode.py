"""One query against heads that hold different numbers of tokens, head after head in one flat buffer (Ada-KV, Feng et
al. 2024, arXiv:2407.11550, section 4.3)."""

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
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The oracle of `run`: head by head."""
    from kvfrontier.methods.attend.eager import attend

    heads, outputs, sums = lengths.shape[1], [], []
    for b, held in enumerate(lengths.tolist()):
        at = 0
        for h, n in enumerate(held):
            rows = q[b : b + 1].unflatten(1, (heads, -1))[:, h]
            keys, values = (x[b : b + 1, None, at : at + n] for x in (k, v))
            if n:
                o, total = attend(rows, keys, values, scale=scale, causal=False, softcap=softcap)
            else:
                o = rows.new_zeros(*rows.shape[:3], v.shape[2])
                total = torch.full(rows.shape[:3], -1.0e30, device=q.device)
            outputs.append(o)
            sums.append(total)
            at += n
    o, total = torch.cat(outputs, 1), torch.cat(sums, 1)  # sequences follow one another along the heads
    return o.reshape(*q.shape[:3], -1), total.reshape(q.shape[:3])


def run(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, 1, Dv] and log-sum-exp [B, Hq, 1] of q [B, Hq, 1, D] against k [B, N, D] and v [B, N, Dv], of
    which head h holds lengths[b, h] entries after those of the heads before; lengths [B, Hkv] int32."""
    require("ragged_decode", q, k, v)
    B, Hq, _, D = q.shape
    Hkv, V = lengths.shape[1], v.shape[2]
    # The longest head decides how long all of them take, and no split is waited for on the host.
    n = splits(k.shape[1] // max(1, Hkv), B * Hkv, q.device)
    o, lse = partials(q, n, V)
    begins = (lengths.cumsum(1) - lengths).int()
    _kernel[(n, B * Hkv)](
        q, k, v, lengths.contiguous(), begins, o, lse, scale, n, q.stride(0), q.stride(1),
        k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        HKV=Hkv, GROUP=Hq // Hkv, D=D, V=V, R=padded(Hq // Hkv), DT=padded(D), VT=padded(V), CAP=softcap or 0.0,
        EXACT=exact(q.dtype),
    )  # fmt: skip
    return combine(o, lse, q.dtype)


@tuned(
    [
        {"BLOCK": 64, "num_warps": 4, "num_stages": 3},
        {"BLOCK": 128, "num_warps": 4, "num_stages": 2},
        {"BLOCK": 32, "num_warps": 2, "num_stages": 4},
    ],
    key=["GROUP", "D", "V"],
)
@jit
def _kernel(
    q_at, k_at, v_at, lengths_at, begins_at, o_at, lse_at, scale, n_splits, q_b, q_h, k_b, k_t, v_b, v_t,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
    VT: tl.constexpr, CAP: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (split, sequence and key/value head)."""
    split, b, h = tl.program_id(0), (tl.program_id(1) // HKV).to(tl.int64), (tl.program_id(1) % HKV).to(tl.int64)
    row, column, wide = tl.arange(0, R), tl.arange(0, DT), tl.arange(0, VT)
    head = h * GROUP + row
    real = row < GROUP
    q = tl.load(
        q_at + b * q_b + head[:, None] * q_h + column[None, :], mask=real[:, None] & (column[None, :] < D), other=0.0
    )
    length, begin = tl.load(lengths_at + b * HKV + h), tl.load(begins_at + b * HKV + h).to(tl.int64)
    blocks = tl.cdiv(length, BLOCK)
    each = tl.cdiv(blocks, n_splits)
    m, mass = tl.full([R], -1.0e30, tl.float32), tl.zeros([R], tl.float32)
    acc = tl.zeros([R, VT], tl.float32)
    for block in range(split * each, tl.minimum(blocks, (split + 1) * each)):
        entry = block * BLOCK + tl.arange(0, BLOCK)
        there = entry < length
        slot = begin + entry
        k = tl.load(
            k_at + b * k_b + slot[:, None] * k_t + column[None, :],
            mask=there[:, None] & (column[None, :] < D), other=0.0,
        )  # fmt: skip
        v = tl.load(
            v_at + b * v_b + slot[:, None] * v_t + wide[None, :],
            mask=there[:, None] & (wide[None, :] < V), other=0.0,
        )  # fmt: skip
        m, mass, acc = attended(q, k, v, there[None, :], m, mass, acc, scale, CAP, EXACT)
    written(o_at, lse_at, b * HKV * GROUP + head, split, n_splits, real, m, mass, acc, V, VT)
