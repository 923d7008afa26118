"""KVQuant against its formulas, and what its outliers are for."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, build
from kvfrontier.methods.state import measure
from kvfrontier.methods.stores.k_means import k_means
from kvfrontier.methods.stores.kvquant import KVQuantStore

BITS, SHARE, BLOCK, RESIDUAL = 3, 0.05, 8, 16


def nearest(y: float, levels: list[float]) -> float:
    return min(levels, key=lambda level: abs(level - y))


def levels_of(numbers: Tensor, bits: int) -> list[float]:
    """k-means by assignment and mean, from quantiles; the number just below a cut is shared by both sides."""
    x = numbers.double().sort().values.tolist()
    n, count = len(x), 2**bits
    levels = [x[(2 * i + 1) * n // (2 * count)] for i in range(count)]
    for _ in range(20):
        total, weight = [0.0] * count, [0.0] * count
        cuts = [(a + b) / 2 for a, b in itertools.pairwise(levels)]
        for e, above in zip(x, [*x[1:], math.inf], strict=True):
            own = sum(cut <= e for cut in cuts)
            share = (cuts[own] - e) / (above - e) if own < count - 1 and cuts[own] < above else 1.0
            for at, part in ((own, share), (own + 1, 1 - share)):
                if part:
                    total[at] += part * e
                    weight[at] += part
        levels = [t / w if w else level for t, w, level in zip(total, weight, levels, strict=True)]
    return torch.tensor(levels).tolist()


def half(x: Tensor) -> Tensor:
    return x.half().float()


def keys_rounded(k: Tensor, prompt: int) -> Tensor:
    """Keys [Hkv, n, D] before RoPE: a range for each channel, found in the prompt; per block the furthest out stay."""
    low, high = torch.empty(2, k.shape[0], k.shape[2])
    for h in range(k.shape[0]):
        for d in range(k.shape[2]):
            x = k[h, :prompt, d].sort().values
            out = math.floor(SHARE / 2 * (prompt - 1))
            low[h, d], high[h, d] = x[out], x[-1 - out]
    offset, scale = ((low + high) / 2)[:, None], ((high - low) / 2)[:, None]
    y = (k - offset) / scale
    levels = levels_of(y[:, :prompt].clamp(-1, 1).flatten(), BITS)
    far = (k - offset) / k[:, :prompt].std(1, correction=0)[:, None]
    rounded, kept = k.clone(), round(SHARE * BLOCK * k.shape[2])
    for h in range(k.shape[0]):
        for a in range(0, k.shape[1] // BLOCK * BLOCK, BLOCK):
            block = y[h, a : a + BLOCK]
            furthest = far[h, a : a + BLOCK].abs().flatten().argsort(descending=True)[:kept].tolist()
            for t in range(BLOCK):
                for d in range(k.shape[2]):
                    if t * k.shape[2] + d in furthest:
                        rounded[h, a + t, d] = half(k[h, a + t, d])
                    else:
                        rounded[h, a + t, d] = nearest(block[t, d].item(), levels) * scale[h, 0, d] + offset[h, 0, d]
    return rounded


def values_rounded(v: Tensor, prompt: int) -> Tensor:
    """Values [Hkv, n, D]: the largest of each token stay, the others get a range of their own."""
    kept, y = math.ceil(SHARE * v.shape[2]), torch.empty_like(v)
    offset, scale = torch.empty(2, *v.shape[:2])
    largest = {}
    for h in range(v.shape[0]):
        for t in range(v.shape[1]):
            order = v[h, t].abs().argsort(descending=True)
            largest[h, t], rest = order[:kept], v[h, t][order[kept:]]
            offset[h, t] = half((rest.min() + rest.max()) / 2)
            scale[h, t] = half((rest.max() - rest.min()) / 2)
            y[h, t] = (v[h, t] - offset[h, t]) / scale[h, t]
    levels = levels_of(y[:, :prompt].clamp(-1, 1).flatten(), BITS)
    rounded = torch.empty_like(v)
    for h, t in largest:
        near = torch.tensor([nearest(e, levels) for e in y[h, t].tolist()])
        rounded[h, t] = near * scale[h, t] + offset[h, t]
        rounded[h, t, largest[h, t]] = half(v[h, t, largest[h, t]])
    return rounded


def test_kvquant(reference, qkv, chunks: list[int]) -> None:
    """Behind the first token, which stays in full: keys in whole residuals, rounded before RoPE; values one by one."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    prompt = reference.PROMPT - 1
    keys, values = k.clone(), v[0].clone()
    keys[0, :, 1:] = keys_rounded(k[0, :, 1:], prompt)
    values[:, 1:] = values_rounded(v[0, :, 1:], prompt)
    keys = reference.rotate(keys)

    def output(h: int, g: int, t: int) -> Tensor:
        if t < reference.PROMPT:
            return reference.attend(qr[0, h, t], kr[0, g, : t + 1], v[0, g, : t + 1])
        n = t - 1
        pk, pv = 1 + n - n % RESIDUAL, 1 + n - RESIDUAL
        K = torch.cat([kr[0, g, :1], keys[0, g, 1:pk], kr[0, g, pk : t + 1]])
        V = torch.cat([v[0, g, :1], values[g, 1:pv], v[0, g, pv : t + 1]])
        return reference.attend(qr[0, h, t], K, V)

    method = build({"name": "kvquant", "bits": BITS, "outliers": SHARE, "block": BLOCK, "residual": RESIDUAL})
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=2e-5, rtol=1e-4)


def test_fitted_levels_beat_equal_steps_on_normal_numbers() -> None:
    x = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = k_means(x, 3)[0]

    def error(levels: Tensor) -> float:
        return (x[0] - levels[torch.bucketize(x[0], (levels[1:] + levels[:-1]) / 2)]).square().mean().item()

    assert error(found) < 0.037 < error(torch.linspace(x.min().item(), x.max().item(), 8).double())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outliers_aside_cut_the_error(bits: int) -> None:
    """One number in a hundred is twenty times as large."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 512, 64, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.005, x * 20, x)
    layer, errors = Layer(0, 1, 2, 2, 64, 64, 1.0), []
    for outliers in (0.02, 0.0):
        store = KVQuantStore(128, 0, bits, outliers)
        state = store.init(layer, 1, False)
        store.append(state, x, x)
        store.seal(state)
        errors.append(torch.stack([(y - x[:, :, :384]).square().mean() for y in store.read(state, 0, 384)]))
    assert (errors[0] < errors[1] / 3).all()


def test_outliers_and_their_indices_are_counted() -> None:
    """256 keys in two blocks and 128 values of one head of 64: codes, 82 outliers a block, 1 a token, levels."""
    layer = Layer(0, 1, 1, 1, 64, 64, 1.0)
    store = KVQuantStore(128, 0, 4, 0.01)
    state = store.init(layer, 1, False)
    store.append(state, torch.randn(1, 1, 256, 64), torch.randn(1, 1, 256, 64))
    store.seal(state)
    keys = 256 * 32 + 2 * 82 * (2 + 2) + 4 * 16 + 3 * 64 * 4
    values = 128 * (32 + 2 + 2 + 2 + 1) + 4 * 16
    assert measure(state).payload == keys + values + 128 * 64 * 4


@pytest.mark.parametrize("selection", ["window", "snapkv", "h2o"])
def test_positions_that_are_slots_are_refused_where_tokens_leave(selection: str) -> None:
    with pytest.raises(ValueError, match="under positions kept_unrotated a slot is a position"):
        build({"name": "cached", "selection": selection, "positions": "kept_unrotated"})


def test_keys_kept_before_rope_attend_as_dense(reference, qkv: Any, chunks: list[int]) -> None:
    method = build({"name": "cached", "positions": "kept_unrotated"})
    got, want = (reference.run(m, *qkv, chunks) for m in (method, build({"name": "dense"})))
    torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-5)
