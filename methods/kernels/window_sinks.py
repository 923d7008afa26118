"""Many queries under a causal mask, a window and sinks, in one pass over the keys that any of them sees (Dao 2023,
arXiv:2307.08691, for the blocks; Xiao et al. 2023, arXiv:2309.17453, for the pattern).

Query t of T stands at key S - T + t. It sees keys up to its own, of these its last `window`, and the first `sinks`.
Blocks of keys that no query of a block of queries sees are not read: time is linear in T for a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.kernels.runtime import attended, exact, jit, padded, require, tl, triton, tuned


def eager(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None, sinks: int = 0,
    softcap: float | None = None, everything: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The oracle of `run`."""
    from kvfrontier.methods.attend.eager import attend

    T, S = q.shape[2], k.shape[2]
    if everything:
        return attend(q, k, v, scale=scale, causal=False, softcap=softcap)
    t, s = torch.arange(S - T, S, device=q.device)[:, None], torch.arange(S, device=q.device)
    mask = s <= t
    if window is not None:
        mask = mask & ((s > t - window) | (s < sinks))
    return attend(q, k, v, scale=scale, causal=False, softcap=softcap, mask=mask)


def run(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None, sinks: int = 0,
    softcap: float | None = None, everything: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output [B, Hq, T, Dv] and log-sum-exp [B, Hq, T] of q [B, Hq, T, D], k [B, Hkv, S, D], v [B, Hkv, S, Dv], with
    T <= S. Without `window` every query sees all keys up to its own; with `everything` it sees all keys."""
    require("window_sinks", q, k, v)
    B, Hq, T, D = q.shape
    Hkv, S, V = k.shape[1], k.shape[2], v.shape[3]
    if T > S and not everything:
        raise ValueError(f"{T} queries are more than the {S} keys at whose end they stand")
    out = torch.empty(B, Hq, T, V, dtype=q.dtype, device=q.device)
    total = torch.empty(B, Hq, T, dtype=torch.float32, device=q.device)
    _kernel[lambda given: (triton.cdiv(T, given["ROWS"]), B * Hq)](
        q, k, v, out, total, scale, T, S, S if window is None else window, sinks,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2),
        v.stride(0), v.stride(1), v.stride(2),
        HQ=Hq, GROUP=Hq // Hkv, D=D, V=V, DT=padded(D), VT=padded(V), CAP=softcap or 0.0, EXACT=exact(q.dtype),
        WINDOWED=window is not None, ALL=everything,
    )  # fmt: skip
    return out, total


@tuned(
    [
        {"ROWS": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 3},
        {"ROWS": 128, "BLOCK": 128, "num_warps": 8, "num_stages": 2},
        {"ROWS": 64, "BLOCK": 64, "num_warps": 4, "num_stages": 3},
        {"ROWS": 64, "BLOCK": 32, "num_warps": 4, "num_stages": 2},
    ],
    key=["GROUP", "D", "V", "WINDOWED", "EXACT"],
)
@jit
def _kernel(
    q_at, k_at, v_at, out_at, total_at, scale, T, S, window, sinks,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    HQ: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, DT: tl.constexpr, VT: tl.constexpr,
    CAP: tl.constexpr, EXACT: tl.constexpr, WINDOWED: tl.constexpr, ALL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (block of queries, sequence and query head); the last queries, which see most, go first."""
    block_of_queries = tl.num_programs(0) - 1 - tl.program_id(0)
    b, head = (tl.program_id(1) // HQ).to(tl.int64), (tl.program_id(1) % HQ).to(tl.int64)
    h = head // GROUP
    t = block_of_queries * ROWS + tl.arange(0, ROWS)
    column, wide = tl.arange(0, DT), tl.arange(0, VT)
    q = tl.load(
        q_at + b * q_b + head * q_h + t.to(tl.int64)[:, None] * q_t + column[None, :],
        mask=(t[:, None] < T) & (column[None, :] < D), other=0.0,
    )  # fmt: skip
    at = S - T + t
    first, last = S - T + block_of_queries * ROWS, tl.minimum(S, S - T + (block_of_queries + 1) * ROWS)
    if ALL:
        last = S
    begin = 0
    front = 0
    if WINDOWED:
        begin = tl.maximum(0, first - window + 1) // BLOCK
        front = tl.minimum(tl.cdiv(sinks, BLOCK), begin)
    m, mass = tl.full([ROWS], -1.0e30, tl.float32), tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, VT], tl.float32)
    # Blocks that hold sinks and lie before the window's, then those of the window.
    blocks = front + tl.cdiv(last, BLOCK) - begin
    for i in range(blocks):
        block = tl.where(i < front, i, begin + i - front)
        s = block * BLOCK + tl.arange(0, BLOCK)
        k = tl.load(
            k_at + b * k_b + h * k_h + s.to(tl.int64)[:, None] * k_t + column[None, :],
            mask=(s[:, None] < S) & (column[None, :] < D), other=0.0,
        )  # fmt: skip
        v = tl.load(
            v_at + b * v_b + h * v_h + s.to(tl.int64)[:, None] * v_t + wide[None, :],
            mask=(s[:, None] < S) & (wide[None, :] < V), other=0.0,
        )  # fmt: skip
        if ALL:
            there = (s[None, :] < S) & (t[:, None] < T)
        else:
            there = s[None, :] <= at[:, None]
        if WINDOWED:
            there = there & ((s[None, :] > at[:, None] - window) | (s[None, :] < sinks))
        m, mass, acc = attended(q, k, v, there, m, mass, acc, scale, CAP, EXACT)
    mass = tl.where(mass > 0.0, mass, 1.0)
    place = (b * HQ + head) * T + t
    tl.store(
        out_at + place[:, None] * V + wide[None, :], (acc / mass[:, None]).to(out_at.dtype.element_ty),
        mask=(t[:, None] < T) & (wide[None, :] < V),
    )  # fmt: skip
    tl.store(total_at + place, (m + tl.log2(mass)) / 1.4426950408889634, mask=t < T)
