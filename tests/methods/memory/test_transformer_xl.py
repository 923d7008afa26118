"""Transformer-XL's recurrence, with its stop-gradient, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.memory.transformer_xl import TransformerXL


@pytest.mark.parametrize(("window", "block"), [(24, 24), (20, 10), (13, 10), (500, 24)])
@pytest.mark.parametrize("pieces", [[90], [13, 50, 7, 20]], ids=["one-shot", "chunks"])
def test_transformer_xl(reference, qkv, window: int, block: int, pieces: list[int]) -> None:
    """Outputs and gradients: a query sends none to keys and values of segments before its own."""
    weight = torch.randn(1, reference.HQ, reference.T, reference.D, generator=torch.Generator().manual_seed(3))

    def gradients(forward) -> tuple[Tensor, list[Tensor]]:
        given = [x.clone().requires_grad_() for x in qkv]
        out = forward(*given)
        return out, list(torch.autograd.grad((out * weight).sum(), given))

    def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        qr, kr = reference.rotate(q), reference.rotate(k)
        first = window % block  # where the first whole segment begins

        def output(h: int, g: int, t: int) -> Tensor:
            begin = max(0, t - window) // block * block
            own = (t - first) // block * block + first if t >= first else 0
            keys, values = (torch.cat([x[0, g, begin:own].detach(), x[0, g, own : t + 1]]) for x in (kr, v))
            return reference.attend(qr[0, h, t], keys, values)

        return reference.by_token(output)

    got, found = gradients(lambda q, k, v: reference.run(TransformerXL(window, block), q, k, v, pieces))
    wanted, grads = gradients(expected)
    torch.testing.assert_close(got, wanted, atol=5e-6, rtol=1e-5)
    for name, a, b in zip("qkv", found, grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"gradient of {name}: {m}")
