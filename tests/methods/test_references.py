"""Each method against its formula, written from the paper with loops over tokens and heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Infini, Kivi, Layer, Linear, Method, MovingAverage, Sinks, SnapKV, Step, Window
from kvfrontier.methods.stores.quantized import dequantize, pack, quantize, unpack

HQ, HKV, D, T, PROMPT = 4, 2, 16, 90, 70
SCALE = 0.35


class Rotary:
    """RoPE with base 100, written with complex numbers."""

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angle = positions[:, None, :, None] * 100.0 ** -(torch.arange(half) / half)
        z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1)

    def invert(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.apply(x, -positions)


LAYER = Layer(index=0, count=1, hq=HQ, hkv=HKV, d=D, dv=D, scale=SCALE, rope=Rotary())
CHUNKS = [[PROMPT] + [1] * (T - PROMPT), [13, 50, 7, 20], [1] * T]


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """q and k before RoPE, and v; one sequence."""
    g = torch.Generator().manual_seed(7)
    return tuple(torch.randn(1, h, T, D, generator=g) for h in (HQ, HKV, HKV))  # pyright: ignore[reportReturnType]


def rotate(x: Tensor) -> Tensor:
    return Rotary().apply(x, torch.arange(x.shape[2])[None])


def run(method: Method, q: Tensor, k: Tensor, v: Tensor, chunks: Sequence[int], layer: Layer = LAYER) -> Tensor:
    """The method over the chunks, sealed after PROMPT tokens; q, k before RoPE."""
    state, out, a = method.init_state(layer, 1), [], 0
    qr, kr = rotate(q), rotate(k)
    for n in chunks:
        at = slice(a, a + n)
        if a == PROMPT:
            method.seal(state, layer)
            method.seal(state, layer)
        step = Step(torch.arange(a, a + n)[None], a, unrotated=lambda at=at: (q[:, :, at], k[:, :, at]))
        out.append(method.attend(qr[:, :, at], kr[:, :, at], v[:, :, at], state, layer, step))
        a += n
    return torch.cat(out, 2)


def softmax_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query [D] over keys [n, D] and values [n, D]."""
    return (keys @ q * SCALE).softmax(0) @ values


def by_token(output) -> Tensor:
    """[1, Hq, T, D] from output(query head, its key/value head, t)."""
    return torch.stack([torch.stack([output(h, h * HKV // HQ, t) for t in range(T)]) for h in range(HQ)])[None]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("window", "sinks"), [(20, 0), (16, 4), (200, 4), (1, 1)])
def test_window_and_sinks(qkv, window: int, sinks: int, chunks: list[int]) -> None:
    q, k, v = qkv
    qr, kr = rotate(q), rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        return softmax_attention(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    method = Sinks(window, sinks, "original") if sinks else Window(window)
    torch.testing.assert_close(run(method, q, k, v, chunks), by_token(output), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_sinks_with_positions_in_the_cache(qkv, chunks: list[int]) -> None:
    """StreamingLLM as its paper says: what is in the cache is rotated to its place there, the query stands last."""
    q, k, v = qkv
    window, sinks = 16, 4

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        keys = Rotary().apply(k[:, g : g + 1, seen], torch.arange(len(seen))[None])[0, 0]
        query = Rotary().apply(q[:, h : h + 1, t : t + 1], torch.tensor([[len(seen) - 1]]))[0, 0, 0]
        return softmax_attention(query, keys, v[0, g, seen])

    torch.testing.assert_close(run(Sinks(window, sinks), q, k, v, chunks), by_token(output), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("mass", ["one", "count"])
@pytest.mark.parametrize("window", [0, 1, 24])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_moving_average(qkv, window: int, mass: str, chunks: list[int]) -> None:
    """Mem_i = ((k_i, v_i) + i Mem_{i-1}) / (i + 1), token by token."""
    q, k, v = qkv
    qr, kr = rotate(q), rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        mem_k = mem_v = torch.zeros(D)
        n = max(0, t + 1 - window)
        for i in range(n):
            mem_k, mem_v = (kr[0, g, i] + i * mem_k) / (i + 1), (v[0, g, i] + i * mem_v) / (i + 1)
        keys, values = [kr[0, g, n : t + 1]], [v[0, g, n : t + 1]]
        logits = torch.cat([*keys, *([mem_k[None]] if n else [])]) @ qr[0, h, t] * SCALE
        if n and mass == "count":
            logits[-1] += math.log(n)
        return logits.softmax(0) @ torch.cat([*values, *([mem_v[None]] if n else [])])

    got = run(MovingAverage(window, mass), q, k, v, chunks)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(got, by_token(output), atol=5e-6, rtol=1e-5)


def test_one_averaged_slot_alone_does_not_depend_on_the_query(qkv) -> None:
    q, k, v = qkv
    method = MovingAverage(window=0)
    assert torch.equal(run(method, q, k, v, [T]), run(method, torch.randn_like(q), k, v, [T]))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_infini(qkv, chunks: list[int]) -> None:
    """Equations 4-10, segment by segment; local attention with the text's own positions, the memory with none."""
    q, k, v = qkv
    qr, kr = rotate(q), rotate(k)
    segment, gate = 24, 0.7

    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    def output(h: int, g: int, t: int) -> Tensor:
        start = t // segment * segment
        local = softmax_attention(qr[0, h, t], kr[0, g, start : t + 1], v[0, g, start : t + 1])
        if start == 0:
            return local
        weights = phi(k[0, g, :start]) @ phi(q[0, h, t])
        memory = weights @ v[0, g, :start] / weights.sum()
        beta = 1 / (1 + math.exp(-gate))
        return beta * memory + (1 - beta) * local

    torch.testing.assert_close(run(Infini(segment, gate), q, k, v, chunks), by_token(output), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_linear(qkv, chunks: list[int]) -> None:
    """Equations 18-20, one token at a time, in float64."""
    q, k, v = qkv
    qr, kr, values = rotate(q).double(), rotate(k).double(), v.double()
    expected = torch.zeros(1, HQ, T, D, dtype=torch.float64)
    for h in range(HQ):
        g = h * HKV // HQ
        S, z = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
        for t in range(T):
            fq, fk = (torch.where(x > 0, x + 1, x.exp()) for x in (qr[0, h, t], kr[0, g, t]))
            S, z = S + torch.outer(fk, values[0, g, t]), z + fk
            expected[0, h, t] = fq @ S / (fq @ z)
    torch.testing.assert_close(run(Linear(), q, k, v, chunks), expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("budget", "kernel"), [(30, 5), (12, 1), (500, 7)])
def test_snapkv(qkv, budget: int, kernel: int, chunks: list[int]) -> None:
    """Weights of the last queries, summed, averaged over the group, pooled; the best stay with the window."""
    q, k, v = qkv
    qr, kr = rotate(q), rotate(k)
    w = 8
    kept = {}
    for g in range(HKV):
        score = torch.zeros(PROMPT)
        for h in range(g * HQ // HKV, (g + 1) * HQ // HKV):
            for t in range(PROMPT - w, PROMPT):
                score[: t + 1] += (kr[0, g, : t + 1] @ qr[0, h, t] * SCALE).softmax(0) / (HQ // HKV)
        past = score[: PROMPT - w].tolist()
        half = kernel // 2
        pooled = [sum(past[max(0, i - half) : i + half + 1]) / kernel for i in range(len(past))]
        best = sorted(range(len(past)), key=lambda i: -pooled[i])[: max(0, min(budget, PROMPT) - w)]
        kept[g] = sorted(best) + list(range(PROMPT - w, PROMPT))

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1)) if t < PROMPT else kept[g] + list(range(PROMPT, t + 1))
        return softmax_attention(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = run(SnapKV(budget, w, kernel), q, k, v, chunks)
    torch.testing.assert_close(got, by_token(output), atol=3e-6, rtol=1e-5)


def round_trip(x: Tensor, bits: int) -> Tensor:
    """One group through codes, with fp16 scale and zero."""
    zero = x.min().half().float()
    scale = ((x.max() - zero) / (2**bits - 1)).half().float()
    return torch.stack([((e - zero) / scale).round().clamp(0, 2**bits - 1) * scale + zero for e in x])


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_kivi(qkv, bits: int, chunks: list[int]) -> None:
    """Exact until the prompt ends; then keys per channel in whole residuals, values per token behind the residual."""
    q, k, v = qkv
    qr, kr = rotate(q), rotate(k)
    group, residual = 8, 16
    keys, values = kr[0].clone(), v[0].clone()
    for g in range(HKV):
        for a in range(0, T, group):
            for d in range(D):
                keys[g, a : a + group, d] = round_trip(kr[0, g, a : a + group, d], bits)
        for t in range(T):
            for a in range(0, D, group):
                values[g, t, a : a + group] = round_trip(v[0, g, t, a : a + group], bits)

    def output(h: int, g: int, t: int) -> Tensor:
        if t < PROMPT:
            return softmax_attention(qr[0, h, t], kr[0, g, : t + 1], v[0, g, : t + 1])
        # Packed before this token's turn: `t` tokens came before it.
        pk, pv = t - t % residual, max(0, t - residual)
        K = torch.cat([keys[g, :pk], kr[0, g, pk : t + 1]])
        V = torch.cat([values[g, :pv], v[0, g, pv : t + 1]])
        return softmax_attention(qr[0, h, t], K, V)

    got = run(Kivi(bits, group, residual), q, k, v, chunks)
    torch.testing.assert_close(got, by_token(output), atol=5e-6, rtol=1e-5)


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


def test_soft_capping_reaches_every_softmax_method(qkv) -> None:
    q, k, v = (x * 4 for x in qkv)
    layer = replace(LAYER, softcap=3.0)
    qr, kr = rotate(q), rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        x = 3.0 * torch.tanh(kr[0, g, : t + 1] @ qr[0, h, t] * SCALE / 3.0)
        return x.softmax(0) @ v[0, g, : t + 1]

    expected = by_token(output)
    for method in (Window(T), Sinks(T, 4), SnapKV(T, 8), MovingAverage(T), Kivi(4, 8, 96)):
        torch.testing.assert_close(run(method, q, k, v, CHUNKS[0], layer), expected, atol=2e-5, rtol=1e-5)
