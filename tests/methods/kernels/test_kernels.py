"""Every kernel against its eager oracle, and the oracles against the formula; in Triton's interpreter on a CPU
(`make test-kernels`), on the device where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.attend import eager as softmax
from kvfrontier.methods.kernels import (
    paged_decode,
    quantized_decode,
    ragged_decode,
    split_decode,
    window_sinks,
)
from kvfrontier.methods.stores.uniform import Uniform

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: The interpreter takes its time: one dtype of each kind.
DTYPES = [torch.float32, torch.bfloat16]
missing = kernels.why_not("split_decode", DEVICE)
needs_triton = pytest.mark.skipif(bool(missing), reason=missing or "it runs")


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def same(found: Any, oracle: Any, *given: Any, **options: Any) -> None:
    """As the oracle in float32 on the same numbers, to the rounding of the dtype."""
    half = found[0].dtype != torch.float32
    wide = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
    for x, y in zip(found, oracle(*wide, **options), strict=True):
        torch.testing.assert_close(x.float(), y, atol=2e-2 if half else 3e-5, rtol=2e-2 if half else 3e-5)


def formula(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Softmax attention of one query head at a time; seen [S] or [Hq, S] bool."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    x = (q @ k.mT * scale).masked_fill(~seen.expand(q.shape[1], -1)[None, :, None], float("-inf"))
    return x.softmax(-1) @ v


# ---------------------------------------------------------------------------------------------- the oracles


def test_the_oracles_are_the_formula() -> None:
    q, k, v = drawn(1, 6, 1, 16), drawn(1, 2, 40, 16), drawn(1, 2, 40, 16)
    everything = torch.ones(40, dtype=torch.bool, device=DEVICE)
    torch.testing.assert_close(split_decode.eager(q, k, v, scale=0.3)[0], formula(q, k, v, everything, 0.3))
    chosen = torch.tensor([[[1, 3], [0, 4]]], device=DEVICE)
    seen = torch.zeros(2, 40, dtype=torch.bool, device=DEVICE)
    seen[0, 8:16] = seen[0, 24:32] = seen[1, 0:8] = seen[1, 32:40] = True
    found = split_decode.eager(q, k, v, scale=0.3, chosen=chosen, page=8)[0]
    torch.testing.assert_close(found, formula(q, k, v, seen.repeat_interleave(3, 0), 0.3))
    flat = torch.cat([k[:, 0, :9], k[:, 1, :31]], 1), torch.cat([v[:, 0, :9], v[:, 1, :31]], 1)
    lengths = torch.tensor([[9, 31]], dtype=torch.int32, device=DEVICE)
    seen = torch.arange(40, device=DEVICE) < torch.tensor([9, 31], device=DEVICE).repeat_interleave(3)[:, None]
    torch.testing.assert_close(ragged_decode.eager(q, *flat, lengths, scale=0.3)[0], formula(q, k, v, seen, 0.3))


def test_the_oracle_of_packed_sides_undoes_the_stores_codec() -> None:
    x = drawn(1, 2, 64, 32)
    cases: list[tuple[int, Any, bool]] = [
        (8, "channel", False), (4, "token", False), (2, "token", True), (4, "channel", True),
    ]  # fmt: skip
    for bits, axis, symmetric in cases:
        side = packed(x, 64, bits, axis, 32, symmetric)
        columns = [side.codes, side.scale, *([] if symmetric else [side.zero])]
        torch.testing.assert_close(side.decoded(), Uniform(bits, axis, 32, symmetric).decode(columns, []))


def test_a_kernel_that_cannot_run_is_an_error() -> None:
    with pytest.raises(kernels.NoKernel, match="unknown kernel 'split'; choose one of split_decode"):
        kernels.check("split")
    side = packed(drawn(1, 2, 64, 32), 64, 4, "channel", 8)
    with pytest.raises(ValueError, match="group of 8 tokens is no multiple of 16"):
        quantized_decode.run(drawn(1, 4, 1, 32), side, side, scale=1.0)


@pytest.mark.skipif(not missing, reason="Triton is here")
def test_a_missing_triton_is_named() -> None:
    with pytest.raises(ValueError, match=r"kvfrontier\[triton\]|runs on CUDA"):
        split_decode.run(drawn(1, 4, 1, 16), drawn(1, 2, 8, 16), drawn(1, 2, 8, 16), scale=1.0)


# ---------------------------------------------------------------------------------------------- the kernels


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("S", "hq", "d", "dv"), [(1, 4, 16, 16), (333, 6, 32, 32), (200, 14, 80, 48)])
def test_split_decode(S: int, hq: int, d: int, dv: int, dtype: torch.dtype) -> None:
    q, k, v = drawn(2, hq, 1, d, dtype=dtype), drawn(2, 2, S, d, dtype=dtype), drawn(2, 2, S, dv, dtype=dtype)
    lengths = torch.tensor([S, S // 2 + 1], dtype=torch.int32, device=DEVICE)
    given: list[dict[str, Any]] = [{}, {"softcap": 3.0}, {"lengths": lengths}]
    for options in given:
        same(split_decode.run(q, k, v, scale=0.2, **options), split_decode.eager, q, k, v, scale=0.2, **options)


@needs_triton
def test_split_decode_takes_strides() -> None:
    q = drawn(2, 1, 6, 32).transpose(1, 2)
    k, v = (drawn(2, 90, 2, 32 + i).transpose(1, 2)[:, :, 7:71, :32] for i in (16, 32))
    same(split_decode.run(q, k, v, scale=0.2), split_decode.eager, q, k, v, scale=0.2)


@needs_triton
@pytest.mark.parametrize("page", [1, 16])
def test_selected_slots_and_pages(page: int) -> None:
    q, k, v = drawn(2, 6, 1, 32), drawn(2, 2, 203, 32), drawn(2, 2, 203, 32)
    pages = -(-203 // page)
    order = [torch.randperm(pages, generator=torch.Generator().manual_seed(i))[: pages // 2] for i in range(4)]
    order[0][0] = pages - 1  # the last page is not full
    chosen = torch.stack([x.unique(return_inverse=False)[: pages // 2 - 1] for x in order]).view(2, 2, -1).to(DEVICE)
    options = {"scale": 0.2, "chosen": chosen, "page": page}
    same(split_decode.run(q, k, v, **options), split_decode.eager, q, k, v, **options)
    shared = {"scale": 0.2, "chosen": chosen[:, :1], "page": page}
    same(split_decode.run(q, k, v, **shared), split_decode.eager, q, k, v, **shared)


def packed(
    x: Tensor, n: int, bits: int, axis: Any, group: int, symmetric: bool = False
) -> quantized_decode.Side:  # fmt: skip
    """The first n tokens packed by the store's own codec, the others in full."""
    codes, scale, *zero = Uniform(bits, axis, group, symmetric).encode(x[:, :, :n], [])
    return quantized_decode.Side(codes, scale, zero[0] if zero else None, x[:, :, n:], bits, axis, group)


@needs_triton
@pytest.mark.parametrize("bits", quantized_decode.BITS)
@pytest.mark.parametrize(
    ("axis", "symmetric", "group", "dtype"),
    [
        ("channel", False, 32, torch.float32),
        ("token", False, 16, torch.float32),
        ("token", True, 32, torch.bfloat16),
        ("channel", True, 16, torch.bfloat16),
    ],
)
def test_quantized_decode(bits: int, axis: Any, symmetric: bool, group: int, dtype: torch.dtype) -> None:
    """As KIVI leaves them: keys in full behind their last group, of values the newest 40."""
    q, k, v = drawn(2, 6, 1, 32, dtype=dtype), drawn(2, 2, 203, 32, dtype=dtype), drawn(2, 2, 203, 32, dtype=dtype)
    keys, values = packed(k, 192, bits, axis, group, symmetric), packed(v, 163, bits, "token", group, symmetric)
    found = quantized_decode.run(q, keys, values, scale=0.2)
    same(found, quantized_decode.eager, q, keys, values, scale=0.2)


@needs_triton
def test_nothing_packed_yet_and_everything_packed() -> None:
    q, k, v = drawn(1, 4, 1, 64), drawn(1, 2, 64, 64), drawn(1, 2, 64, 64)
    for n in (0, 64):
        keys, values = packed(k, n, 4, "channel", 32), packed(v, n, 2, "token", 32)
        same(quantized_decode.run(q, keys, values, scale=0.2), quantized_decode.eager, q, keys, values, scale=0.2)


@needs_triton
@pytest.mark.parametrize(("block", "dtype"), [(16, torch.float32), (24, torch.bfloat16)])
def test_paged_decode(block: int, dtype: torch.dtype) -> None:
    q, k, v = drawn(2, 6, 1, 32, dtype=dtype), *(drawn(9, 2, block, 32 - i, dtype=dtype) for i in (0, 16))
    table = torch.tensor([[8, 2, 5, 1], [0, 7, 3, 3]], dtype=torch.int32, device=DEVICE)
    lengths = torch.tensor([4 * block, 2 * block + 5], dtype=torch.int32, device=DEVICE)
    same(paged_decode.run(q, k, v, table, lengths, scale=0.2), paged_decode.eager, q, k, v, table, lengths, scale=0.2)


@needs_triton
def test_ragged_decode_with_a_head_that_holds_nothing() -> None:
    lengths = torch.tensor([[5, 130, 65], [200, 0, 0]], dtype=torch.int32, device=DEVICE)
    q, k, v = drawn(2, 6, 1, 32), drawn(2, 200, 32), drawn(2, 200, 32)
    o, total = ragged_decode.run(q, k, v, lengths, scale=0.2)
    expected, sums = ragged_decode.eager(q, k, v, lengths, scale=0.2)
    torch.testing.assert_close(o, expected, atol=3e-5, rtol=3e-5)
    torch.testing.assert_close(total.clamp(min=-1e9), sums.clamp(min=-1e9), atol=3e-5, rtol=3e-5)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("T", "S", "window", "sinks"),
    [(7, 7, None, 0), (33, 150, None, 0), (140, 140, 30, 4), (20, 300, 50, 70), (1, 300, 50, 4), (4, 4, 1, 2)],
)
def test_window_and_sinks(T: int, S: int, window: int | None, sinks: int, dtype: torch.dtype) -> None:
    q, k, v = drawn(1, 4, T, 32, dtype=dtype), drawn(1, 2, S, 32, dtype=dtype), drawn(1, 2, S, 16, dtype=dtype)
    options: dict[str, Any] = {"scale": 0.2, "window": window, "sinks": sinks}
    same(window_sinks.run(q, k, v, **options), window_sinks.eager, q, k, v, **options)


@needs_triton
def test_the_backend_triton_serves_every_shape_that_eager_serves() -> None:
    from kvfrontier.methods.attend import triton

    for T, S, window, causal in ((1, 50, None, True), (1, 50, 20, True), (5, 50, 20, True), (5, 50, None, False)):
        q, k, v = drawn(2, 4, T, 32), drawn(2, 2, S, 32), drawn(2, 2, S, 32)
        options: dict[str, Any] = {"scale": 0.2, "window": window, "causal": causal, "softcap": 4.0}
        same(triton.attend(q, k, v, **options), softmax.attend, q, k, v, **options)
