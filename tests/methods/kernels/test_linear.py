"""What is handed to flash-linear-attention, in its layout, and what comes back: a stand-in of its functions, written as
the recurrence over tokens and heads, must give what our own blocks give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import kernels, registry
from kvfrontier.methods.kernels import linear
from kvfrontier.methods.recurrent import decay, delta

B, H, G, T, F, V = 2, 2, 3, 21, 8, 5


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, *, g: Tensor | None, beta: Tensor | None = None, scale: float,
    initial_state: Tensor, output_final_state: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """fla's layout: q, k [B, T, heads, F], v [B, T, heads, V], g [B, T, heads] or [.., F], state [B, heads, F, V]."""
    assert output_final_state
    assert q.shape == (B, T, H * G, F) and v.shape == (B, T, H * G, V)
    S, out = initial_state.clone(), torch.zeros(B, T, H * G, V)
    for b in range(B):
        for h in range(H * G):
            for t in range(T):
                if g is not None:
                    decays = g[b, t, h].exp()
                    S[b, h] = (decays[:, None] if decays.ndim else decays) * S[b, h]
                write = v[b, t, h]
                if beta is not None:
                    write = beta[b, t, h] * (write - k[b, t, h] @ S[b, h])
                S[b, h] = S[b, h] + torch.outer(k[b, t, h], write)
                out[b, t, h] = scale * q[b, t, h] @ S[b, h]
    return out, S


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("chunk_simple_gla", "chunk_gla", "chunk_gated_delta_rule")
    monkeypatch.setattr(linear, "_fla", lambda room: SimpleNamespace(**dict.fromkeys(names, recurrence)))
    monkeypatch.setattr(kernels, "why_not", lambda name, device: "")


def given() -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    shapes = [(B, H, G, T, F), (B, H, T, F), (B, H, T, V), (B, H, F, V)]
    q, k, v, S = (torch.randn(shape, generator=g) for shape in shapes)
    return q, torch.nn.functional.normalize(k, dim=-1), v, S


@pytest.mark.parametrize("decays", [None, (1, H, T, 1), (B, H, T, 1), (B, H, T, F)])
def test_decays_reach_the_kernel_in_its_layout(decays: tuple[int, ...] | None) -> None:
    q, k, v, S = given()
    g = None if decays is None else -torch.rand(decays)
    for x, y in zip(linear.decayed(q, k, v, S, g), decay.decayed(q, k, v, S, g), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decaying", [False, True])
def test_the_delta_rule_reaches_the_kernel_in_its_layout(decaying: bool) -> None:
    q, k, v, S = given()
    beta, g = torch.rand(B, H, T, 1), -torch.rand(B, H, T, 1) if decaying else None
    for x, y in zip(linear.delta_rule(q, k, v, beta, S, g), delta.delta_rule(q, k, v, beta, S, g), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_one_token_takes_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_fla", lambda room: pytest.fail("a kernel was asked for one token"))
    q, k, v, S = given()
    q, k, v = q[:, :, :, :1], k[:, :, :1], v[:, :, :1]
    assert torch.equal(linear.decayed(q, k, v, S)[0], decay.decayed(q, k, v, S)[0])


def test_a_gradient_is_refused() -> None:
    q, k, v, S = given()
    with pytest.raises(ValueError, match="train with kernel=eager"):
        linear.decayed(q.requires_grad_(), k, v, S)


@pytest.mark.parametrize("name", ["linear", "retnet", "ssd", "gla", "deltanet", "gated_deltanet"])
def test_methods_ask_for_it_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "check", lambda name: None)
    asked: dict[str, Any] = registry.complete({"name": name})
    assert asked["kernel"] == "eager"
    assert registry.build({**asked, "kernel": "fla"}) != registry.build(asked)
