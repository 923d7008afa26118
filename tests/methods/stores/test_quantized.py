"""KIVI against its formula, and what packing may lose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Kivi
from kvfrontier.methods.stores.quantized import dequantize, pack, quantize, unpack


def round_trip(x: Tensor, bits: int) -> Tensor:
    """One group through codes, with fp16 scale and zero."""
    zero = x.min().half().float()
    scale = ((x.max() - zero) / (2**bits - 1)).half().float()
    return torch.stack([((e - zero) / scale).round().clamp(0, 2**bits - 1) * scale + zero for e in x])


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_kivi(reference, qkv, bits: int, chunks: list[int]) -> None:
    """Exact until the prompt ends; then keys per channel in whole residuals, values per token behind the residual."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    group, residual = 8, 16
    keys, values = kr[0].clone(), v[0].clone()
    for g in range(reference.HKV):
        for a in range(0, reference.T, group):
            for d in range(reference.D):
                keys[g, a : a + group, d] = round_trip(kr[0, g, a : a + group, d], bits)
        for t in range(reference.T):
            for a in range(0, reference.D, group):
                values[g, t, a : a + group] = round_trip(v[0, g, t, a : a + group], bits)

    def output(h: int, g: int, t: int) -> Tensor:
        if t < reference.PROMPT:
            return reference.attend(qr[0, h, t], kr[0, g, : t + 1], v[0, g, : t + 1])
        # Packed before this token's turn: `t` tokens came before it.
        pk, pv = t - t % residual, max(0, t - residual)
        K = torch.cat([keys[g, :pk], kr[0, g, pk : t + 1]])
        V = torch.cat([values[g, :pv], v[0, g, pv : t + 1]])
        return reference.attend(qr[0, h, t], K, V)

    got = reference.run(Kivi(bits, group, residual), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("dim", [2, 3])
def test_quantization_errs_by_half_a_scale_at_most(bits: int, dim: int) -> None:
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 3
    codes, scale, zero = quantize(x, bits, dim, 16)
    assert torch.equal(unpack(pack(codes, bits), bits), codes)
    assert pack(codes, bits).numel() * 8 == x.numel() * bits
    error = (dequantize(codes, scale, zero, dim, 16, torch.float32) - x).unflatten(dim, (-1, 16)).abs().amax(dim + 1)
    # Scale and zero are rounded to halves, by 2^-11 of themselves at most, the scale up to 2^bits - 1 times.
    slack = 2**-11 * ((2**bits - 1) * scale.float() + zero.float().abs())
    assert (error <= scale.float() / 2 + slack + 1e-6).all()


def test_a_group_of_one_token_is_exact() -> None:
    x = torch.randn(1, 1, 5, 8).half().float()
    codes, scale, zero = quantize(x, 2, 2, 1)
    assert torch.equal(dequantize(codes, scale, zero, 2, 1, torch.float32), x)
