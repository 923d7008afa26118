"""Packed latents against quantization written as loops, and the model's own attention where nothing is packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, Step
from kvfrontier.methods.sharing.mla import ExpandedLatents
from kvfrontier.methods.sharing.mla_quantized import MLAQuantized

GROUP = 4


class Projection(torch.nn.Module):
    """Stands for an attention module of 4 heads: 10 + 8 elements of key, 12 of value, from latents of 24."""

    def __init__(self) -> None:
        super().__init__()
        self.kv_b_proj = torch.nn.Linear(24, 4 * (10 + 12), bias=False)


@pytest.fixture
def layer() -> Layer:
    torch.manual_seed(3)
    return Layer(0, 1, 4, 4, 18, 12, 0.3, latent=(24, 8), module=Projection().requires_grad_(False))


@pytest.fixture
def given() -> tuple[Tensor, ...]:
    """Queries, latents and shared keys of 40 tokens."""
    g = torch.Generator().manual_seed(5)
    return tuple(torch.randn(1, h, 40, d, generator=g) for h, d in ((4, 18), (1, 24), (1, 8)))


def rounded(x: Tensor, bits: int, symmetric: bool) -> Tensor:
    """One token's latent after its codes, group by group and element by element."""
    out = x.clone()
    for a in range(0, len(x), GROUP):
        low, high = min(x[a : a + GROUP].tolist()), max(x[a : a + GROUP].tolist())
        if symmetric:
            high = max(-low, high)
            low = -high
        zero = low if symmetric else float(torch.tensor(low).half())
        scale = float(torch.tensor((high - zero) / (2**bits - 1)).half())
        if symmetric:
            zero = -scale * (2**bits - 1) / 2
        for i in range(a, a + GROUP):
            code = min(max(round((float(x[i]) - zero) / scale), 0), 2**bits - 1)
            out[i] = code * scale + zero
    return out


@pytest.mark.parametrize("residual", [0, 7])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, False), (2, False)])
def test_decoded_queries_see_older_latents_through_their_codes(
    layer: Layer, given: tuple[Tensor, ...], bits: int, symmetric: bool, residual: int
) -> None:
    q, c, r = given
    prompt = 30
    method = MLAQuantized(bits, GROUP, residual, symmetric)
    state: Any = method.init_state(layer, 1)

    def call(a: int, b: int) -> Tensor:
        method.latent(c[:, :, a:b], r[:, :, a:b], state, layer)
        phase = "prefill" if a == 0 else "decode"
        return method.attend(q[:, :, a:b], q, q, state, layer, Step(torch.arange(a, b)[None], a, phase))

    call(0, prompt)
    method.seal(state, layer)
    # The first of two calls decodes several tokens at once.
    got = torch.cat([call(prompt, 35), *(call(t, t + 1) for t in range(35, 40))], 2)
    both = torch.cat([c, r], -1)
    weight = layer.module.kv_b_proj.weight.view(4, 22, 24)
    for t in range(prompt, 40):
        seen = [both[0, 0, s] if s >= t - residual else rounded(both[0, 0, s], bits, symmetric) for s in range(t + 1)]
        for h in range(4):
            keys = torch.stack([torch.cat([weight[h, :10] @ x[:24], x[24:]]) for x in seen])
            values = torch.stack([weight[h, 10:] @ x[:24] for x in seen])
            p = (keys @ q[0, h, t] * layer.scale).softmax(0)
            torch.testing.assert_close(got[0, h, t - prompt], p @ values, atol=2e-5, rtol=1e-4)


def test_until_the_prompt_ends_nothing_is_lost(layer: Layer, given: tuple[Tensor, ...]) -> None:
    q, c, r = given
    method = MLAQuantized(2, GROUP)
    state = method.init_state(layer, 1)
    method.latent(c, r, state, layer)
    out = method.attend(q, q, q, state, layer, Step(torch.arange(40)[None], 0))
    k, v = ExpandedLatents().expand(torch.cat([c, r], -1), 0, layer)
    mask = torch.full((40, 40), float("-inf")).triu(1)
    torch.testing.assert_close(out, (q @ k.mT * layer.scale + mask).softmax(-1) @ v, atol=3e-6, rtol=1e-5)


def test_a_group_must_divide_the_latent_and_its_key(layer: Layer) -> None:
    with pytest.raises(ValueError, match="does not divide the width of a latent and its shared key 32"):
        MLAQuantized(4, 24).validate(layer)
