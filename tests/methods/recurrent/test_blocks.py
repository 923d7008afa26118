"""The block algorithms against recurrences over tokens, in float64: values, final states and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.recurrent.blocks import SPAN
from kvfrontier.methods.recurrent.decay import decayed
from kvfrontier.methods.recurrent.delta import delta_rule

B, H, G, F, V = 2, 2, 3, 5, 4
#: Within a part, at the edges of parts and blocks, and beyond a span.
LENGTHS = [1, 2, 8, 9, 63, 64, 65, 130]
DECAYS = {"none": None, "a head": (1, H, 0, 1), "a token": (B, H, 0, 1), "a channel": (B, H, 0, F)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(T: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and a state that is not empty."""
    return random(B, H, G, T, F), random(B, H, T, F, seed=1), random(B, H, T, V, seed=2), random(B, H, F, V, seed=3)


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


def gradients(f: Callable[..., tuple[Tensor, Tensor]], given: list[Tensor]) -> list[Tensor]:
    """Of a loss that weighs every output and every entry of the final state differently."""
    tensors = [x.clone().requires_grad_() for x in given]
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
    (q, k, v, S), g = inputs(T), log_decays(T, kind, 0.01)
    assert g is not None
    g[:, :, ::4] = -1e6
    found, expected = decayed(q.float(), k.float(), v.float(), S.float(), g.float()), naive(q, k, v, S, g)
    torch.testing.assert_close(found, tuple(x.float() for x in expected), rtol=1e-3, atol=1e-4)


def delta_inputs(T: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Keys of length one, and beta from 0 to 1."""
    q, k, v, S = inputs(T)
    return q, torch.nn.functional.normalize(k, dim=-1), v, random(B, H, T, 1, seed=5).sigmoid(), S


def naive_delta(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, g: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """S = exp(g) S, S = S + beta k (v - S^T k)^T, o = S^T q."""
    outputs = []
    for t in range(k.shape[2]):
        if g is not None:
            S = S * g[:, :, t, :, None].exp()
        error = v[:, :, t] - torch.einsum("bhfv,bhf->bhv", S, k[:, :, t])
        S = S + beta[:, :, t, :, None] * k[:, :, t, :, None] * error[:, :, None]
        outputs.append(torch.einsum("bhgf,bhfv->bhgv", q[:, :, :, t], S))
    return torch.stack(outputs, 3), S


@pytest.mark.parametrize("kind", ["none", "a token"])
@pytest.mark.parametrize("T", [*LENGTHS, SPAN + 70])
def test_the_delta_rule_in_blocks_equals_the_recurrence(T: int, kind: str) -> None:
    x, g = delta_inputs(T), log_decays(T, kind, 0.1)
    torch.testing.assert_close(delta_rule(*x, g), naive_delta(*x, g), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["none", "a token"])
def test_gradients_through_the_triangular_system_equal_those_through_the_recurrence(kind: str) -> None:
    g = log_decays(75, kind)
    x = [*delta_inputs(75), *([] if g is None else [g])]
    torch.testing.assert_close(gradients(delta_rule, x), gradients(naive_delta, x), rtol=1e-9, atol=1e-9)


def test_the_delta_rule_does_not_blow_up_where_keys_repeat() -> None:
    """One key again and again with beta 1, in float32: the matrix gives its last value exactly."""
    T = 300
    key = torch.nn.functional.normalize(torch.ones(F), dim=0)
    k, v = key.expand(1, 1, T, F), random(1, 1, T, V).float()
    out, _ = delta_rule(k[:, :, None], k, v, torch.ones(1, 1, T, 1), torch.zeros(1, 1, F, V))
    torch.testing.assert_close(out[:, :, 0], v, rtol=1e-5, atol=1e-5)
