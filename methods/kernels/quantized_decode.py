"""One query against packed codes of 8, 4 or 2 bits with scales and zeros, and what is not packed yet in full, in one
pass (KIVI, Liu et al. 2024, arXiv:2402.02750).

Codes become numbers in registers: what is read is what the cache holds. Keys may be packed per channel, over groups of
tokens, or per token, over groups of channels, values likewise; of both the newest tokens are in full, and not equally
many of them. Layout of codes: stores/packing.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

Axis = Literal["channel", "token"]
#: Widths whose codes do not straddle bytes.
BITS = (2, 4, 8)


@dataclass(frozen=True)
class Side:
    """Keys or values: the first tokens packed, the others in full.

    codes    [B, H, n, D bits / 8] uint8
    scale    [B, H, n / group, D] (axis "channel") or [B, H, n, D / group] (axis "token"), float16
    zero     as scale; None: the range is symmetric, and its lower end follows from the scale
    full     [B, H, r, D], the tokens after the n packed ones
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    full: Tensor
    bits: int
    axis: Axis
    group: int

    @property
    def packed(self) -> int:
        return self.codes.shape[2]

    def decoded(self) -> Tensor:
        """All tokens [B, H, n + r, D] in float32: the oracle of what the kernel reads."""
        mask, lanes = 2**self.bits - 1, 8 // self.bits
        codes = torch.cat([self.codes >> self.bits * i & mask for i in range(lanes)], -1).float()
        dim = 2 if self.axis == "channel" else 3
        scale = self.scale.float()
        zero = scale * (-mask / 2) if self.zero is None else self.zero.float()
        scale, zero = (x.repeat_interleave(self.group, dim) for x in (scale, zero))
        return torch.cat([codes * scale + zero, self.full.float()], 2)


def eager(q: Tensor, keys: Side, values: Side, *, scale: float, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """The oracle of `run`: everything decoded first."""
    from kvfrontier.methods.attend.eager import attend

    return attend(q, keys.decoded(), values.decoded(), scale=scale, causal=False, softcap=softcap)


def refusal(side: Side) -> str:
    """Why the kernel cannot read this side; empty where it can."""
    if side.bits not in BITS:
        return f"codes of {side.bits} bits straddle bytes; choose one of {', '.join(map(str, BITS))}"
    if side.axis == "channel" and side.group % 16:
        return f"a group of {side.group} tokens is no multiple of 16, the kernel's smallest block"
    return ""


def run(q: Tensor, keys: Side, values: Side, *, scale: float, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, 1, Dv] and log-sum-exp [B, Hq, 1] of q [B, Hq, 1, D]. Raises ValueError where it cannot serve."""
    for side in (keys, values):
        if reason := refusal(side):
            raise ValueError(f"kernel 'quantized_decode' cannot serve this cache: {reason}; ask for kernel=eager")
    require("quantized_decode", q, keys.codes, values.codes, keys.full, values.full)
    B, Hq, _, D = q.shape
    Hkv, V = keys.full.shape[1], values.full.shape[3]
    tokens = keys.packed + keys.full.shape[2]
    # A block of tokens lies within one group, so that a channel's scale is read once for it.
    block = min([64, *(side.group & -side.group for side in (keys, values) if side.axis == "channel")])
    n = splits(tokens, B * Hkv, q.device, block)
    o, lse = partials(q, n, V)
    _kernel[(n, B * Hkv)](
        q, o, lse, scale, tokens, n, q.stride(0), q.stride(1), *_given(keys), *_given(values),
        HKV=Hkv, GROUP=Hq // Hkv, D=D, V=V, R=padded(Hq // Hkv), DT=padded(D), VT=padded(V),
        K_BITS=keys.bits, K_GROUP=keys.group, K_CHANNEL=keys.axis == "channel", K_ZERO=keys.zero is not None,
        V_BITS=values.bits, V_GROUP=values.group, V_CHANNEL=values.axis == "channel", V_ZERO=values.zero is not None,
        CAP=softcap or 0.0, EXACT=exact(q.dtype), BLOCK=block,
    )  # fmt: skip
    return combine(o, lse, q.dtype)


def _given(side: Side) -> tuple[Tensor | int, ...]:
    """The tensors of a side, how many tokens are packed, and the strides of sequence, head and token."""
    zero = side.scale if side.zero is None else side.zero
    strides = (x.stride(i) for x in (side.codes, side.scale, zero, side.full) for i in range(3))
    return (side.codes, side.scale, zero, side.full, side.packed, *strides)


@jit
def _tile(
    codes_at, scale_at, zero_at, full_at, packed, c_t, s_t, z_t, f_t, start, tokens,
    D: tl.constexpr, DT: tl.constexpr, BITS: tl.constexpr, G: tl.constexpr, CHANNEL: tl.constexpr, ZERO: tl.constexpr,
    BLOCK: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Tokens start .. start + BLOCK of one head, [BLOCK, DT], in the dtype of those in full."""
    token, column = start + tl.arange(0, BLOCK), tl.arange(0, DT)
    inside = column[None, :] < D
    coded = (token[:, None] < packed) & inside
    width: tl.constexpr = D * BITS // 8  # pyright: ignore[reportAssignmentType]
    at = token.to(tl.int64)[:, None]
    codes = tl.load(codes_at + at * c_t + (column % width)[None, :], mask=coded, other=0).to(tl.int32)
    codes = (codes >> (column // width * BITS)[None, :]) & ((1 << BITS) - 1)
    if CHANNEL:
        first = tl.zeros([DT], tl.int64) + start
        there = (column < D) & (first < packed)
        scale = tl.load(scale_at + first // G * s_t + column, mask=there, other=0.0).to(tl.float32)
        if ZERO:
            zero = tl.load(zero_at + first // G * z_t + column, mask=there, other=0.0).to(tl.float32)
        else:
            zero = scale * (-((1 << BITS) - 1) / 2)
        x = codes.to(tl.float32) * scale[None, :] + zero[None, :]
    else:
        scale = tl.load(scale_at + at * s_t + (column // G)[None, :], mask=coded, other=0.0).to(tl.float32)
        if ZERO:
            zero = tl.load(zero_at + at * z_t + (column // G)[None, :], mask=coded, other=0.0).to(tl.float32)
        else:
            zero = scale * (-((1 << BITS) - 1) / 2)
        x = codes.to(tl.float32) * scale + zero
    if EXACT:
        x = tl.where(coded, x, 0.0)
    else:
        x = tl.where(coded, x, 0.0).to(full_at.dtype.element_ty)
    if start + BLOCK > packed:
        behind = (token[:, None] >= packed) & (token[:, None] < tokens) & inside
        full = tl.load(full_at + (at - packed) * f_t + column[None, :], mask=behind, other=0.0)
        x = tl.where(behind, full.to(x.dtype), x)
    return x


@tuned(
    [
        {"num_warps": 4, "num_stages": 3},
        {"num_warps": 2, "num_stages": 3},
        {"num_warps": 4, "num_stages": 2},
        {"num_warps": 8, "num_stages": 2},
    ],
    key=["GROUP", "D", "V", "K_BITS", "V_BITS", "K_CHANNEL", "BLOCK"],
)
@jit
def _kernel(
    q_at, o_at, lse_at, scale, tokens, n_splits, q_b, q_h,
    kc_at, ks_at, kz_at, kf_at, k_packed, kc_b, kc_h, kc_t, ks_b, ks_h, ks_t, kz_b, kz_h, kz_t, kf_b, kf_h, kf_t,
    vc_at, vs_at, vz_at, vf_at, v_packed, vc_b, vc_h, vc_t, vs_b, vs_h, vs_t, vz_b, vz_h, vz_t, vf_b, vf_h, vf_t,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, V: tl.constexpr, R: tl.constexpr, DT: tl.constexpr,
    VT: tl.constexpr, K_BITS: tl.constexpr, K_GROUP: tl.constexpr, K_CHANNEL: tl.constexpr, K_ZERO: tl.constexpr,
    V_BITS: tl.constexpr, V_GROUP: tl.constexpr, V_CHANNEL: tl.constexpr, V_ZERO: tl.constexpr,
    CAP: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (split, sequence and key/value head)."""
    split, b, h = tl.program_id(0), (tl.program_id(1) // HKV).to(tl.int64), (tl.program_id(1) % HKV).to(tl.int64)
    row, column = tl.arange(0, R), tl.arange(0, DT)
    head = h * GROUP + row
    real = row < GROUP
    q = tl.load(
        q_at + b * q_b + head[:, None] * q_h + column[None, :], mask=real[:, None] & (column[None, :] < D), other=0.0
    )
    kc_at += b * kc_b + h * kc_h
    ks_at += b * ks_b + h * ks_h
    kz_at += b * kz_b + h * kz_h
    kf_at += b * kf_b + h * kf_h
    vc_at += b * vc_b + h * vc_h
    vs_at += b * vs_b + h * vs_h
    vz_at += b * vz_b + h * vz_h
    vf_at += b * vf_b + h * vf_h
    blocks = tl.cdiv(tokens, BLOCK)
    each = tl.cdiv(blocks, n_splits)
    m, mass = tl.full([R], -1.0e30, tl.float32), tl.zeros([R], tl.float32)
    acc = tl.zeros([R, VT], tl.float32)
    for block in range(split * each, tl.minimum(blocks, (split + 1) * each)):
        start = block * BLOCK
        k = _tile(
            kc_at, ks_at, kz_at, kf_at, k_packed, kc_t, ks_t, kz_t, kf_t, start, tokens,
            D, DT, K_BITS, K_GROUP, K_CHANNEL, K_ZERO, BLOCK, EXACT,
        )  # fmt: skip
        v = _tile(
            vc_at, vs_at, vz_at, vf_at, v_packed, vc_t, vs_t, vz_t, vf_t, start, tokens,
            V, VT, V_BITS, V_GROUP, V_CHANNEL, V_ZERO, BLOCK, EXACT,
        )  # fmt: skip
        there = start + tl.arange(0, BLOCK) < tokens
        m, mass, acc = attended(q, k, v, there[None, :], m, mass, acc, scale, CAP, EXACT)
    written(o_at, lse_at, b * HKV * GROUP + head, split, n_splits, real, m, mass, acc, V, VT)
