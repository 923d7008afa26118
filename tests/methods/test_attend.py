"""Every backend against the eager oracle, and the oracle against PyTorch's own formula."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kvfrontier.methods import Layer, attend
from kvfrontier.methods.attend import sdpa as sdpa_module
from kvfrontier.methods.attend.eager import attend as eager
from kvfrontier.methods.attend.sdpa import attend as sdpa

LAYER = Layer(index=0, count=1, hq=6, hkv=2, d=16, dv=16, scale=0.3)


def qkv(T: int, S: int, B: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(T * 1000 + S)
    return tuple(torch.randn(B, h, n, 16, generator=g) for h, n in ((6, T), (2, S), (2, S)))  # pyright: ignore[reportReturnType]


def band(T: int, S: int, window: int | None) -> torch.Tensor:
    t, s = torch.arange(S - T, S)[:, None], torch.arange(S)
    return (s <= t) & (True if window is None else s > t - window)


@pytest.mark.parametrize(
    ("T", "S", "window"), [(1, 1, None), (5, 5, None), (5, 40, None), (300, 700, 90), (1, 40, 7), (300, 300, 500)]
)
def test_eager_is_pytorchs_formula(T: int, S: int, window: int | None) -> None:
    q, k, v = qkv(T, S)
    repeated = (x.repeat_interleave(3, 1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=band(T, S, window), scale=0.3)
    o, lse = eager(q, k, v, scale=0.3, causal=True, window=window)
    torch.testing.assert_close(o, expected, atol=2e-6, rtol=1e-5)
    logits = (q.unflatten(1, (2, 3)) @ k.unsqueeze(2).mT * 0.3).masked_fill(~band(T, S, window), float("-inf"))
    torch.testing.assert_close(lse, logits.logsumexp(-1).flatten(1, 2))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 90, 5000])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 333), (64, 64), (300, 700), (700, 700)])
def test_sdpa_equals_eager(T: int, S: int, window: int | None, causal: bool) -> None:
    q, k, v = qkv(T, S)
    window = window if causal else None
    for got, expected in zip(
        *(f(q, k, v, scale=0.3, causal=causal, window=window) for f in (sdpa, eager)), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("threads", [2, 3, 4, 16])
@pytest.mark.parametrize("S", [15, 64, 97, 333])
def test_one_query_cut_for_the_threads_equals_eager(S: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(sdpa_module, "STRETCH", 8)
    kernel, parts = sdpa_module._flash, []
    monkeypatch.setattr(sdpa_module, "_flash", lambda q, *rest: parts.append(len(q)) or kernel(q, *rest))
    q, k, v = qkv(1, S + 5, B=1)
    for got, expected in zip(
        *(f(q, k[:, :, :S], v[:, :, :S], scale=0.3, causal=True) for f in (sdpa, eager)), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)
    # Two key/value heads keep two threads busy.
    assert (max(parts) > 1) == (threads > 2 and S >= 16)


# torch's own compiler uses what torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_flex_equals_eager_with_soft_capping() -> None:
    from kvfrontier.methods.attend.flex import attend as flex

    for T, S, window, softcap in ((32, 70, None, None), (32, 70, 20, 5.0), (1, 70, None, 5.0)):
        q, k, v = qkv(T, S)
        options = {"scale": 0.3, "causal": True, "window": window, "softcap": softcap, "lse": False}
        with torch.no_grad():
            torch.testing.assert_close(flex(q, k, v, **options)[0], eager(q, k, v, **options)[0], atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(("T", "S", "window"), [(1, 40, None), (1, 40, 7), (5, 40, None), (30, 90, 20)])
def test_pytorchs_formula_equals_eager_and_gives_no_sums(T: int, S: int, window: int | None) -> None:
    q, k, v = qkv(T, S)
    options = {"scale": 0.3, "causal": True, "window": window}
    found, _ = attend.function("sdpa_math")(q, k, v, **options, lse=False)
    torch.testing.assert_close(found, eager(q, k, v, **options)[0], atol=3e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="returns no log-sum-exp; ask for auto or eager"):
        attend.function("sdpa_math")(q, k, v, **options)


@pytest.mark.parametrize("name", ["sdpa_efficient", "sdpa_cudnn"])
def test_kernels_for_cuda_refuse_a_cpu(name: str) -> None:
    q, k, v = qkv(1, 4)
    assert "for CUDA, and this is cpu" in attend.why_not(name, "cpu")
    with pytest.raises(ValueError, match="cannot serve this layer: its kernels are for CUDA"):
        attend.function(name)(q, k, v, scale=1.0, causal=True)


def test_a_device_too_old_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert attend.needs_cuda(torch.device("cuda"), (8, 0)).endswith("capability 8.0, and this device has 7.5")
    assert attend.needs_cuda(torch.device("cuda"), (7, 5)) == ""


def test_a_backend_brings_what_it_has_beside_attend() -> None:
    assert attend.special(eager, "attend_slots") is None
    assert attend.special(attend.function("triton"), "attend_slots") is not None


def test_parts_merge_to_the_whole() -> None:
    q, k, v = qkv(30, 90)
    cuts = [(0, 20), (20, 60)]
    parts = [sdpa(q, k[:, :, a:b], v[:, :, a:b], scale=0.3, causal=False) for a, b in cuts]
    parts.append(sdpa(q, k[:, :, 60:], v[:, :, 60:], scale=0.3, causal=True))
    for got, expected in zip(attend.merge(parts), eager(q, k, v, scale=0.3, causal=True), strict=True):
        torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


def test_a_sink_logit_is_one_more_column_with_value_zero() -> None:
    q, k, v = qkv(5, 9)
    sinks = torch.linspace(-1, 2, 6)
    x = (q.unflatten(1, (2, 3)) @ k.unsqueeze(2).mT * 0.3).masked_fill(~band(5, 9, None), float("-inf")).flatten(1, 2)
    weights = torch.cat([x, sinks[None, :, None, None].expand(2, 6, 5, 1)], -1).softmax(-1)[..., :-1]
    o, _ = attend.add_sink_logits(eager(q, k, v, scale=0.3, causal=True), sinks)
    torch.testing.assert_close(o, weights @ v.repeat_interleave(3, 1), atol=2e-6, rtol=1e-5)


def test_auto_is_a_stated_rule() -> None:
    assert attend.choose("auto", LAYER) is sdpa
    assert attend.choose("auto", replace(LAYER, softcap=30.0)) is eager
    assert attend.choose("auto", LAYER, needs_grad=True) is eager
    assert attend.choose("auto", replace(LAYER, device="cuda")) is eager
    assert attend.choose("auto", replace(LAYER, device="cuda", dtype=torch.bfloat16)) is sdpa


def test_nothing_falls_back_in_silence() -> None:
    q, k, v = qkv(2, 4)
    with pytest.raises(ValueError, match=r"no soft-cap; ask for auto, eager or flex"):
        sdpa(q, k, v, scale=1.0, causal=True, softcap=20.0)
    with pytest.raises(ValueError, match="no gradient"):
        sdpa(q.requires_grad_(), k, v, scale=1.0, causal=True)
    with pytest.raises(ValueError, match="unknown backend 'spda'; choose one of auto, eager, sdpa"):
        attend.check("spda")


@pytest.mark.parametrize("name", ["flash_attn", "flash_attn_3", "flash_attn_4", "xformers", "triton"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"kvfrontier\[{name}\]"):
        attend.check(name)
