"""fp8, rotated and turboquant stores against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, build
from kvfrontier.methods.attend.eager import attend as eager
from kvfrontier.methods.axes import Span, as_stored
from kvfrontier.methods.state import measure
from kvfrontier.methods.stores.fp8 import Fp8
from kvfrontier.methods.stores.quantized import QuantizedStore
from kvfrontier.methods.stores.rotated import RotatedStore
from kvfrontier.methods.stores.rotation import rotation
from kvfrontier.methods.stores.turboquant import TurboQuantStore, levels


def attended(reference: Any, qkv: Any, residual: int, rounded: Any) -> Tensor:
    """Exact until the prompt ends; then all but the newest `residual` tokens as `rounded` leaves a head's vector."""
    q, k, v = qkv
    qr, full = reference.rotate(q), (reference.rotate(k)[0], v[0])
    packed = [torch.stack([torch.stack([rounded(x) for x in head]) for head in y]) for y in full]

    def output(h: int, g: int, t: int) -> Tensor:
        p = max(0, t - residual) if t >= reference.PROMPT else 0
        seen = (torch.cat([y[g, :p], x[g, p : t + 1]]) for x, y in zip(full, packed, strict=True))
        return reference.attend(qr[0, h, t], *seen)

    return reference.by_token(output)


def to_float8(x: float, mantissa: int, least: int, largest: float) -> float:
    """The nearest number with so many bits of mantissa; below the exponent `least` the steps stay equal."""
    if x == 0:
        return 0.0
    step = 2.0 ** (max(math.floor(math.log2(abs(x))), least) - mantissa)
    return max(-largest, min(largest, round(x / step) * step))


@pytest.mark.parametrize(("format", "shape"), [("e4m3", (3, -6, 448.0)), ("e5m2", (2, -14, 57344.0))])
@pytest.mark.parametrize("scaled", [True, False])
def test_fp8(reference, qkv, chunks: list[int], format: str, shape: Any, scaled: bool) -> None:
    def rounded(x: Tensor) -> Tensor:
        # A scale is a normal half.
        scale = (x.abs().max() / shape[2]).clamp(min=2.0**-14).half().float() if scaled else torch.ones(())
        return torch.tensor([to_float8(e, *shape) for e in (x / scale).tolist()]) * scale

    method = build({"name": "fp8", "format": format, "scaled": scaled, "residual": 7})
    got, want = reference.run(method, *qkv, chunks), attended(reference, qkv, 7, rounded)
    torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-5)


def test_fp8_saturates_instead_of_overflowing() -> None:
    x = torch.tensor([1e6, -1e6, 1.0])
    for format, largest in (("e4m3", 448.0), ("e5m2", 57344.0)):
        codec = Fp8(format, scaled=False)  # pyright: ignore[reportArgumentType]
        assert codec.decode(codec.encode(x, []), []).tolist() == [largest, -largest, 1.0]


@pytest.mark.parametrize("d", [16, 64, 96, 80])
def test_a_rotation_is_orthonormal_and_comes_from_its_seed(d: int) -> None:
    like = torch.empty(0)
    r = rotation(d, 3, like)
    torch.testing.assert_close(r @ r.T, torch.eye(d), atol=1e-6, rtol=0)
    assert torch.equal(r, rotation(d, 3, like))
    assert not torch.equal(r, rotation(d, 4, like))
    if d & (d - 1) == 0:
        assert torch.equal(r.abs(), torch.full((d, d), d**-0.5))


def test_rotated(reference, qkv, chunks: list[int]) -> None:
    """Rounded in the rotated basis, and rotated back."""
    r = rotation(reference.D, 5, torch.empty(0))

    def rounded(x: Tensor) -> Tensor:
        y = r.T @ x
        for a in range(0, reference.D, 8):
            zero = y[a : a + 8].min().half().float()
            scale = ((y[a : a + 8].max() - zero) / 15).half().float()
            y[a : a + 8] = ((y[a : a + 8] - zero) / scale).round().clamp(0, 15) * scale + zero
        return r @ y

    method = build({"name": "rotated", "bits": 4, "group": 8, "residual": 7, "seed": 5})
    got, want = reference.run(method, *qkv, chunks), attended(reference, qkv, 7, rounded)
    # A number that falls between two codes may go either way after a rotation in float32.
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_a_rotation_rescues_keys_with_outliers() -> None:
    """With three channels ten times as large, two bits by token lose most of the other channels without a rotation."""
    g = torch.Generator().manual_seed(0)
    layer = Layer(0, 1, 4, 2, 64, 64, 1 / 8)
    q, k, v = (torch.randn(1, h, n, 64, generator=g) for h, n in ((4, 1), (2, 300), (2, 300)))
    k[..., [3, 20, 41]] *= 10
    q[..., [3, 20, 41]] /= 10
    want = eager(q, k, v, scale=layer.scale, causal=False)[0]
    error = []
    for kind in (RotatedStore, QuantizedStore):
        store = kind(0, bits=2, key_axis="token", value_axis="token", group=64)
        state = store.init(layer, 1, False)
        store.append(state, k, v)
        store.seal(state)
        error.append((store.read(state, 0, 300)[0] - k).square().mean().item())
        got = store.attend(state, q, Span(0, 300), as_stored, layer, eager, False)[0][0]
        assert got.shape == want.shape
    assert error[0] < error[1] / 2


GAUSSIAN = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}  # Max 1960, table 1


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_levels_err_on_normal_numbers_as_max_found(bits: int) -> None:
    found = torch.tensor(levels(bits), dtype=torch.float64)
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    nearest = found[torch.bucketize(x, (found[1:] + found[:-1]) / 2)]
    assert (x - nearest).square().mean().item() == pytest.approx(GAUSSIAN[bits], rel=0.02)
    torch.testing.assert_close(found, -found.flip(0), atol=1e-3, rtol=0)


def test_levels_of_a_head_near_those_of_a_normal_variable() -> None:
    assert levels(2, 4096) == pytest.approx(levels(2), abs=2e-3)
    assert levels(1, 4096)[1] == pytest.approx(math.sqrt(2 / math.pi), abs=2e-3)
    assert levels(2, 16)[-1] < levels(2, 64)[-1] < levels(2)[-1]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_turboquant(reference, qkv, bits: int) -> None:
    """Norm in fp16; of the rotated unit vector, each coordinate becomes the nearest level."""
    r = TurboQuantStore(seed=2).basis(reference.D, torch.empty(0))
    table = torch.tensor(levels(bits, reference.D)) / math.sqrt(reference.D)

    def rounded(x: Tensor) -> Tensor:
        u = r.T @ x / x.norm()
        return r @ torch.stack([table[(table - e).abs().argmin()] for e in u]) * x.norm().half().float()

    method = build({"name": "turboquant", "bits": bits, "residual": 7, "seed": 2})
    chunks = [13, 50, 7, 20]
    got, want = reference.run(method, *qkv, chunks), attended(reference, qkv, 7, rounded)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_turboquant_errs_as_its_levels_do_and_packs_its_bits(bits: int) -> None:
    """Relative squared error of vectors with any outliers is that of a normal number; b/8 bytes a code, 2 a norm."""
    layer = Layer(0, 1, 2, 2, 64, 64, 1.0)
    store = TurboQuantStore(bits=bits)
    state = store.init(layer, 1, True)
    x = torch.randn(1, 2, 1000, 64, generator=torch.Generator().manual_seed(0)) ** 3
    store.append(state, x, x)
    store.seal(state)
    k, _ = store.read(state, 0, 1000)
    relative = ((k - x).square().sum(-1) / x.square().sum(-1)).mean().item()
    assert relative == pytest.approx(GAUSSIAN[bits], rel=0.1)
    assert measure(state).payload == 1000 * 2 * 2 * (8 * bits + 2)
