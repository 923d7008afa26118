"""Quantized stores against their formulas, and what packing may lose."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Kivi, Layer, Method, build
from kvfrontier.methods.attend import merge
from kvfrontier.methods.attend.eager import attend as eager
from kvfrontier.methods.axes import Span, Store, as_stored
from kvfrontier.methods.state import measure
from kvfrontier.methods.stores.packing import lanes, pack, unpack
from kvfrontier.methods.stores.quantized import QuantizedStore
from kvfrontier.methods.stores.uniform import Uniform, dequantize, quantize

GROUP, RESIDUAL = 8, 16


def round_trip(x: Tensor, bits: int, symmetric: bool = False) -> Tensor:
    """One group through codes, with fp16 scale and zero."""
    if symmetric:
        half = (2**bits - 1) / 2
        scale = (x.abs().max() / half).half().float()
        return torch.stack([((e / scale + half).round().clamp(0, 2 * half) - half) * scale for e in x])
    zero = x.min().half().float()
    scale = ((x.max() - zero) / (2**bits - 1)).half().float()
    return torch.stack([((e - zero) / scale).round().clamp(0, 2**bits - 1) * scale + zero for e in x])


def quantized(x: Tensor, axis: str, bits: int, symmetric: bool = False) -> Tensor:
    """x [H, n, D] with every group rounded; a last incomplete group of tokens is left alone."""
    y = x.clone()
    for g in range(x.shape[0]):
        if axis == "channel":
            for a, d in itertools.product(range(0, x.shape[1] // GROUP * GROUP, GROUP), range(x.shape[2])):
                y[g, a : a + GROUP, d] = round_trip(x[g, a : a + GROUP, d], bits, symmetric)
        else:
            for t, a in itertools.product(range(x.shape[1]), range(0, x.shape[2], GROUP)):
                y[g, t, a : a + GROUP] = round_trip(x[g, t, a : a + GROUP], bits, symmetric)
    return y


def expected(
    reference: Any, qkv: Any, axes: tuple[str, str], bits: tuple[int, int], symmetric: bool, sinks: int
) -> Any:
    """Exact until the prompt ends; then packed behind the residual: in whole residuals where groups lie along tokens,
    one by one where they lie along channels."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    full = (kr[0], v[0])
    rounded = [x.clone() for x in full]
    for x, y, axis, b in zip(full, rounded, axes, bits, strict=True):
        y[:, sinks:] = quantized(x[:, sinks:], axis, b, symmetric)

    def output(h: int, g: int, t: int) -> Tensor:
        if t < reference.PROMPT:
            return reference.attend(qr[0, h, t], *(x[g, : t + 1] for x in full))
        seen = []
        for x, y, axis in zip(full, rounded, axes, strict=True):
            n = t - sinks  # tokens before this one, behind the sinks
            p = n - n % RESIDUAL if axis == "channel" else max(0, n - RESIDUAL)
            seen.append(torch.cat([x[g, :sinks], y[g, sinks : sinks + p], x[g, sinks + p : t + 1]]))
        return reference.attend(qr[0, h, t], *seen)

    return reference.by_token(output)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_kivi(reference, qkv, bits: int, chunks: list[int]) -> None:
    got = reference.run(Kivi(bits, GROUP, RESIDUAL), *qkv, chunks)
    want = expected(reference, qkv, ("channel", "token"), (bits, bits), False, 0)
    torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("value_axis", ["channel", "token"])
@pytest.mark.parametrize("key_axis", ["channel", "token"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sinks", [0, 4])
def test_the_whole_table_of_axes(
    reference, qkv, key_axis: str, value_axis: str, symmetric: bool, sinks: int, chunks: list[int]
) -> None:
    method = build(
        {"name": "quantized", "bits": 3, "value_bits": 4, "group": GROUP, "residual": RESIDUAL, "sinks": sinks,
         "key_axis": key_axis, "value_axis": value_axis, "symmetric": symmetric}
    )  # fmt: skip
    got = reference.run(method, *qkv, chunks)
    want = expected(reference, qkv, (key_axis, value_axis), (3, 4), symmetric, sinks)
    torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-5)


def by_token(residual: int) -> dict[str, Any]:
    return {
        "name": "quantized", "bits": 4, "group": GROUP, "residual": residual, "key_axis": "token", "value_axis": "token"
    }  # fmt: skip


@pytest.mark.parametrize("residual", [0, 5, 40])
def test_a_window_over_a_store_by_token(reference, qkv, residual: int, chunks: list[int]) -> None:
    """Of the last 30 tokens all but the residual are packed; with a residual of 40 none is."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    rounded = [quantized(x[0], "token", 4) for x in (kr, v)]

    def output(h: int, g: int, t: int) -> Tensor:
        begin, p = max(0, t - 29), t - residual if t >= reference.PROMPT else 0
        p = max(begin, p)
        seen = (torch.cat([y[g, begin:p], x[0, g, p : t + 1]]) for x, y in zip((kr, v), rounded, strict=True))
        return reference.attend(qr[0, h, t], *seen)

    method = build({"name": "cached", "selection": {"name": "window", "window": 30}, "store": by_token(residual)})
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("residual", [0, 3, 25])
@pytest.mark.parametrize("selection", ["h2o", "tova"])
def test_tokens_that_a_selection_takes_out_leave_the_others_as_they_were(
    reference, qkv, selection: str, residual: int, chunks: list[int]
) -> None:
    """At 8 bits what stays is near what the same selection keeps in full, and as many bytes as are declared."""
    chosen = {"name": selection, "budget": 20, "block": 4} | ({"recent": 5} if selection == "h2o" else {})
    packed = build({"name": "cached", "selection": chosen, "store": by_token(residual) | {"bits": 8}})
    full = build({"name": "cached", "selection": chosen})
    got, want = (reference.run(method, *qkv, chunks) for method in (packed, full))
    torch.testing.assert_close(got, want, atol=0.05, rtol=0)
    torch.testing.assert_close(got[:, :, : reference.PROMPT], want[:, :, : reference.PROMPT], atol=1e-5, rtol=0)


def test_tokens_that_came_out_of_codes_into_the_residual_keep_their_values() -> None:
    """Where the newest leave, older ones fill the residual: as they were packed, and packed again without loss."""
    layer = Layer(0, 1, 2, 1, 16, 16, 1.0)
    store = QuantizedStore(4, bits=4, group=8, key_axis="token", value_axis="token")
    state, x = store.init(layer, 1, False), torch.randn(1, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    store.append(state, x, -x)
    store.seal(state)
    before = store.read(state, 0, 20)[0]
    assert torch.equal(before[:, :, 16:], x[:, :, 16:])
    assert not torch.equal(before[:, :, :16], x[:, :, :16])
    keep = torch.tensor([0, 2, 3, 9, 10, 14, 19])[None, None]
    store.take(state, keep)
    assert (state.k.n, state.full.k.n) == (3, 4)
    assert torch.equal(store.read(state, 0, 7)[0], before[:, :, keep[0, 0]])
    assert torch.equal(store.gather(state, torch.tensor([[[1, 6]]]))[0], before[:, :, [2, 19]])


# One query, without a decoded past.


@pytest.mark.parametrize("axes", list(itertools.product(["channel", "token"], repeat=2)), ids="-".join)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_folded_scales_give_what_decoded_tokens_give(
    axes: Any, bits: int, softcap: float | None, monkeypatch: Any
) -> None:
    """The path of one query against the tiles, its oracle; in several blocks, with grouped heads and a model's cap."""
    monkeypatch.setattr("kvfrontier.methods.stores.packed.BLOCK", 40)
    layer = Layer(0, 1, 6, 2, 32, 24, 0.3, softcap=softcap)
    store = QuantizedStore(16, sinks=3, bits=bits, group=8, key_axis=axes[0], value_axis=axes[1])
    g = torch.Generator().manual_seed(bits)
    state, q = store.init(layer, 2, False), torch.randn(2, 6, 1, 32, generator=g)
    store.append(state, torch.randn(2, 2, 150, 32, generator=g), torch.randn(2, 2, 150, 24, generator=g))
    store.seal(state)
    for begin, end in ((0, 150), (2, 150), (5, 149), (30, 90)):
        span = Span(begin, end, last=False)
        ((o, lse),) = store.attend(state, q, span, as_stored, layer, eager, True)
        k, v = store.read(state, begin, end)
        want, total = eager(q, k, v, scale=layer.scale, causal=False, softcap=softcap)
        torch.testing.assert_close(o, want, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(lse, total, atol=2e-5, rtol=1e-5)
        tiled = merge(Store.attend(store, state, q, span, as_stored, layer, eager, True))
        torch.testing.assert_close((o, lse), tiled, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
# As for flex (test_attend.py): the compiler of this torch uses what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("axes", list(itertools.product(["channel", "token"], repeat=2)), ids="-".join)
def test_the_compiled_kernel_gives_what_the_eager_one_gives(axes: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("kvfrontier.methods.stores.uniform.COMPILED", 48)
    g = torch.Generator().manual_seed(0)
    x, q, p = (torch.randn(1, 2, n, 32, generator=g) for n in (64, 3, 3))
    p = p.repeat(1, 1, 1, 2)
    for axis, bits in zip(axes, (4, 2), strict=True):
        plain, compiled = Uniform(bits, axis, 16), Uniform(bits, axis, 16, kernel="compile")
        columns = plain.encode(x, [])
        torch.testing.assert_close(compiled.scores(q, columns, []), plain.scores(q, columns, []), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(compiled.mix(p, columns, []), plain.mix(p, columns, []), atol=1e-4, rtol=1e-4)


# Rounding and packing.


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("dim", [2, 3])
def test_quantization_errs_by_half_a_scale_at_most(bits: int, dim: int, symmetric: bool) -> None:
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 3
    codes, scale, zero = quantize(x, bits, dim, 16, symmetric)
    zero = scale.float() * -((2**bits - 1) / 2) if symmetric else zero
    error = (dequantize(codes, scale, zero, dim, 16, torch.float32) - x).unflatten(dim, (-1, 16)).abs().amax(dim + 1)
    # Scale and zero are rounded to halves, by 2^-11 of themselves at most, the scale up to 2^bits - 1 times.
    slack = 2**-11 * ((2**bits - 1) * scale.float() + zero.float().abs())
    assert (error <= scale.float() / 2 + slack + 1e-6).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_packing_loses_nothing_and_takes_just_its_bits(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (2, 3, 5, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.numel() * 8 == codes.numel() * bits
    assert torch.equal(unpack(packed, bits), codes)
    assert torch.equal(torch.cat(lanes(packed, bits), -1), codes)


def test_a_group_of_one_token_is_exact() -> None:
    x = torch.randn(1, 1, 5, 8).half().float()
    codes, scale, zero = quantize(x, 2, 2, 1)
    assert torch.equal(dequantize(codes, scale, zero, 2, 1, torch.float32), x)


@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_scales_and_zeros_are_counted(symmetric: bool) -> None:
    """100 tokens behind no residual, two heads of 32, groups of 8: b/8 bytes a code, 2 a scale and 2 a zero."""
    layer = Layer(0, 1, 4, 2, 32, 32, 1.0)
    store = QuantizedStore(
        0, bits=4, value_bits=3, group=8, key_axis="token", value_axis="token", symmetric=symmetric
    )  # fmt: skip
    state = store.init(layer, 1, True)
    store.append(state, torch.randn(1, 2, 100, 32), torch.randn(1, 2, 100, 32))
    store.seal(state)
    metadata = 2 * 4 * (2 if symmetric else 4)
    assert measure(state).payload == 100 * 2 * (16 + 12 + metadata)


def test_effective_bits_of_kivi() -> None:
    """At 32,768 tokens, 2 bits, groups of 32 and a residual of 128: 3.0 for keys and 3.0508 for values; at 1,024 tokens
    3.0 and 4.625."""
    layer = Layer(0, 1, 2, 1, 64, 64, 1.0).at(torch.bfloat16)
    for n, keys, values in ((32768, 3.0, 3.0508), (1024, 3.0, 4.625)):
        payload = Kivi().footprint(layer, 1, n).held.payload
        assert payload * 8 / (n * 64) == pytest.approx(keys + values, abs=1e-4)


# KIVI's findings.


def outputs_by_axes(reference: Any, bits: int) -> dict[tuple[str, str], Tensor]:
    """One query's output error for keys with outliers in two channels, under each choice of axes."""
    g = torch.Generator().manual_seed(3)
    layer = Layer(0, 1, 4, 2, 64, 64, 64**-0.5)
    q, k, v = (torch.randn(1, h, n, 64, generator=g) for h, n in ((4, 1), (2, 512), (2, 512)))
    k[..., [5, 40]] = k[..., [5, 40]] * 4 + 12
    q[..., [5, 40]] *= 0.3
    v = v * torch.rand(1, 2, 512, 1, generator=g).mul(2).exp()  # a token's values have a size of their own
    want = eager(q, k, v, scale=layer.scale, causal=False)[0]
    error = {}
    for axes in itertools.product(("channel", "token"), repeat=2):
        store = QuantizedStore(32, bits=bits, key_axis=axes[0], value_axis=axes[1])
        state = store.init(layer, 1, False)
        store.append(state, k, v)
        store.seal(state)
        got, _ = store.attend(state, q, Span(0, 512), as_stored, layer, eager, False)[0]
        error[axes] = (got - want).norm() / want.norm()
    return error


def test_keys_by_channel_and_values_by_token_err_least_at_two_bits(reference) -> None:
    """KIVI's table 1, where its order of errors is: keys by channel are better than by token whatever values do, values
    by token better than by channel whatever keys do; and at 8 bits the choice hardly matters."""
    two, eight = outputs_by_axes(reference, 2), outputs_by_axes(reference, 8)
    for axis in ("channel", "token"):
        assert two["channel", axis] < two["token", axis]
    assert two["channel", "token"] < two["channel", "channel"]
    assert min(two, key=lambda axes: two[axes]) == ("channel", "token")
    assert max(eight.values()) < 0.05


# What cannot be asked.


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 5}, "bits 5 cannot be packed; choose one of 2, 3, 4, 8"),
        ({"value_bits": 1}, "bits 1 cannot be packed"),
        ({"group": 0}, "group size 0 must be at least 1"),
        ({"residual": 100}, "residual 100 is not a positive multiple of the group size 32"),
        ({"residual": 0, "value_axis": "channel"}, "not a positive multiple"),
        ({"sinks": -1}, "cannot be negative"),
    ],
)
def test_a_bad_parameter_says_what_to_change(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build({"name": "quantized", **params})


def test_a_group_that_does_not_divide_a_head_names_those_that_do() -> None:
    method: Method = build({"name": "quantized", "group": 48, "residual": 96})
    with pytest.raises(ValueError, match=r"group size 48 does not divide value head_dim 64; .* 16, 32, 64"):
        method.validate(Layer(0, 1, 2, 1, 64, 64, 1.0))


def test_groups_of_tokens_cannot_lose_one() -> None:
    with pytest.raises(ValueError, match="groups that cannot lose one"):
        build({"name": "cached", "selection": "window", "store": "kivi"})
