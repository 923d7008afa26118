"""The block algorithms against recurrences over tokens, in float64: values, final states and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.recurrent.blocks import SPAN
from kvfrontier.methods.recurrent.decay import decayed

B, H, G, F, V = 2, 2, 3, 5, 4
#: Within a part, at the edges of parts and blocks, and beyond a span.
LENGTHS = [1, 2, 8, 9, 63, 64, 65, 130]
DECAYS = {"none": None, "a head": (1, H, 0, 1), "a token": (B, H, 0, 1), "a channel": (B, H, 0, F)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(T: int) -> list[Tensor]:
    """q, k, v and a state that is not empty."""
    return [random(B, H, G, T, F), random(B, H, T, F, seed=1), random(B, H, T, V, seed=2), random(B, H, F, V, seed=3)]


def log_decays(T: int, kind: str, strength: float = 1.0) -> Tensor | None:
    shape = DECAYS[kind]
    return None if shape is None else -strength * random(*(n or T for n in shape), seed=4).abs()


def naive(q: Tensor, k: Tensor, v: Tensor, S: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S = diag(exp(g)) S + k v^T, o = S^T q."""
    outputs = []
    for t in range(k.shape[2]):
        if g is not None:
            S = S * g[:, :, t, :, None].exp()
        S = S + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append(torch.einsum("bhgf,bhfv->bhgv", q[:, :, :, t], S))
    return torch.stack(outputs, 3), S


def gradients(f: Callable[..., tuple[Tensor, Tensor]], tensors: list[Tensor]) -> list[Tensor]:
    """Of a loss that weighs every output and every entry of the final state differently."""
    tensors = [x.clone().requires_grad_() for x in tensors]
    out, S = f(*tensors)
    (out * random(*out.shape, seed=8)).sum().add((S * random(*S.shape, seed=9)).sum()).backward()
    return [x.grad for x in tensors if x.grad is not None]


@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_decay_in_blocks_equals_the_recurrence(T: int, kind: str) -> None:
    x, g = inputs(T), log_decays(T, kind)
    torch.testing.assert_close(decayed(*x, g), naive(*x, g), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", DECAYS)
def test_decay_in_spans_equals_the_recurrence(kind: str) -> None:
    x, g = inputs(SPAN + 70), log_decays(SPAN + 70, kind, 0.01)
    torch.testing.assert_close(decayed(*x, g), naive(*x, g), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", DECAYS)
def test_gradients_through_blocks_equal_those_through_the_recurrence(kind: str) -> None:
    g = log_decays(75, kind)
    x = [*inputs(75), *([] if g is None else [g])]
    torch.testing.assert_close(gradients(decayed, x), gradients(naive, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["a token", "a channel"])
def test_the_strongest_decays_neither_overflow_nor_blur_what_follows(kind: str) -> None:
    """One token in four erases the past (log-decays of -1e6), the others hardly decay; in float32."""
    T = 200
    x, g = [t.float() for t in inputs(T)], log_decays(T, kind, 0.01)
    assert g is not None
    g[:, :, ::4] = -1e6
    found, expected = decayed(*x, g.float()), naive(*(t.double() for t in x), g)
    torch.testing.assert_close(found, tuple(t.float() for t in expected), rtol=1e-3, atol=1e-4)
