"""One query against blocks that lie anywhere, found by a block table (PagedAttention, Kwon et al. 2023,
arXiv:2309.06180): no block is copied together with another first.

A table holds where each block's first key lies, in elements from the first element of `k` (and of `v`): blocks of one
pool lie at multiples of a block, and blocks of separate allocations wherever they are.
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
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The oracle of `run`: the blocks put together, sequence by sequence."""
    from kvfrontier.methods.attend.eager import attend

    outputs, sums = [], []
    for b, n in enumerate(lengths.tolist()):
        blocks = table[b].long()
        keys, values = (x[blocks].transpose(0, 1).flatten(1, 2)[None, :, :n] for x in (k, v))
        o, total = attend(q[b : b + 1], keys, values, scale=scale, causal=False, softcap=softcap)
        outputs.append(o)
        sums.append(total)
    return torch.cat(outputs), torch.cat(sums)


def run(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, 1, Dv] and log-sum-exp [B, Hq, 1] of q [B, Hq, 1, D] against a pool of blocks.

    k [blocks, Hkv, block, D], v [blocks, Hkv, block, Dv]; table [B, m] int32: each sequence's blocks, in order;
    lengths [B] int32: tokens of each sequence.
    """
    blocks = table.long()
    at_k, at_v = blocks * k.stride(0), blocks * v.stride(0)
    return scattered(
        q, k, v, at_k, at_v, k.stride(1) * torch.ones_like(blocks), v.stride(1) * torch.ones_like(blocks), lengths,
        block=k.shape[2], heads=k.shape[1], scale=scale, softcap=softcap,
    )  # fmt: skip


def scattered(
    q: Tensor, k: Tensor, v: Tensor, at_k: Tensor, at_v: Tensor, head_k: Tensor, head_v: Tensor, lengths: Tensor, *,
    block: int, heads: int, scale: float, softcap: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same where blocks may lie in several tensors.

    at_k, at_v [B, m] int64: where a block's first token of head 0 lies, in elements from that of `k` and `v`; head_k,
    head_v [B, m] int64: elements from one head of the block to the next. Tokens follow one another.
    """
    require("paged_decode", q, k, v)
    B, Hq, _, D = q.shape
    V, m = v.shape[-1], at_k.shape[1]
    n = splits(m * block, B * heads, q.device, block)
    o, lse = partials(q, n, V)
    at_k, at_v, head_k, head_v = (x.contiguous() for x in (at_k, at_v, head_k, head_v))
    _kernel[(n, B * heads)](
        q, k, v, at_k, at_v, head_k, head_v, lengths, o, lse, scale, m, n, q.stride(0), q.stride(1),
        HKV=heads, GROUP=Hq // heads, D=D, V=V, R=padded(Hq // heads), DT=padded(D), VT=padded(V),
        PAGE=block, TILE=padded(block), CAP=softcap or 0.0, EXACT=exact(q.dtype),
    )  # fmt: skip
    return combine(o, lse, q.dtype)


@tuned(
    [
        {"num_warps": 4, "num_stages": 3},
        {"num_warps": 2, "num_stages": 4},
        {"num_warps": 1, "num_stages": 4},
        {"num_warps": 4, "num_stages": 2},
    ],
    key=["GROUP", "D", "V", "PAGE"],
)
@jit
def _kernel(
    q_at, k_at, v_at, at_k, at_v, head_k, head_v, lengths_at, o_at, lse_at, scale, m_blocks, n_splits, q_b, q_h,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
    VT: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, CAP: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Program (split, sequence and key/value head); one block of the table after the other."""
    split, b, h = tl.program_id(0), (tl.program_id(1) // HKV).to(tl.int64), (tl.program_id(1) % HKV).to(tl.int64)
    row, column, wide, token = tl.arange(0, R), tl.arange(0, DT), tl.arange(0, VT), tl.arange(0, TILE)
    head = h * GROUP + row
    real = row < GROUP
    q = tl.load(
        q_at + b * q_b + head[:, None] * q_h + column[None, :], mask=real[:, None] & (column[None, :] < D), other=0.0
    )
    length = tl.load(lengths_at + b)
    blocks = tl.cdiv(length, PAGE)
    each = tl.cdiv(blocks, n_splits)
    m, mass = tl.full([R], -1.0e30, tl.float32), tl.zeros([R], tl.float32)
    acc = tl.zeros([R, VT], tl.float32)
    for block in range(split * each, tl.minimum(blocks, (split + 1) * each)):
        there = (token < PAGE) & (block * PAGE + token < length)
        entry = b * m_blocks + block
        keys = tl.load(at_k + entry) + h * tl.load(head_k + entry)
        values = tl.load(at_v + entry) + h * tl.load(head_v + entry)
        k = tl.load(
            k_at + keys + token[:, None] * D + column[None, :], mask=there[:, None] & (column[None, :] < D), other=0.0
        )
        v = tl.load(
            v_at + values + token[:, None] * V + wide[None, :], mask=there[:, None] & (wide[None, :] < V), other=0.0
        )
        m, mass, acc = attended(q, k, v, there[None, :], m, mass, acc, scale, CAP, EXACT)
    written(o_at, lse_at, b * HKV * GROUP + head, split, n_splits, real, m, mass, acc, V, VT)
