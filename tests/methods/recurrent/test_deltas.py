"""DeltaNet and Gated DeltaNet, token by token and in blocks, against their parallel form: T x T matrices in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.recurrent.deltanet import DeltaNet
from kvfrontier.methods.recurrent.gated_deltanet import GatedDeltaNet


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def parallel(reference, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Tensor:
    """O = (Q K^T * D) (I + tril(beta K K^T * D, -1))^-1 beta V over the whole text; beta and g [Hkv, T]."""
    qr, kr = unit(reference.rotate(q).double()[0]), unit(reference.rotate(k).double()[0])
    out = torch.zeros(1, reference.HQ, reference.T, reference.D, dtype=torch.float64)
    for h in range(reference.HQ):
        i = h * reference.HKV // reference.HQ
        D = (g[i].cumsum(0)[:, None] - g[i].cumsum(0)[None]).exp().tril()
        system = torch.eye(reference.T) + (beta[i, :, None] * (kr[i] @ kr[i].T) * D).tril(-1)
        written = system.inverse() @ (beta[i, :, None] * v[0, i].double())
        out[0, h] = ((qr[h] @ kr[i].T) * D * reference.SCALE) @ written
    return out.float()


@pytest.mark.parametrize("trained", [False, True])
def test_deltanet(reference, qkv, trained: bool, learned, chunks: list[int]) -> None:
    """beta = sigmoid(w v + b); untrained it is a half."""
    q, k, v = qkv
    layer, logit = reference.layer, torch.zeros(reference.HKV, reference.T, dtype=torch.float64)
    if trained:
        layer, p = learned(DeltaNet())
        logit = (torch.einsum("htd,hdn->htn", v[0].double(), p["weight"]) + p["bias"])[..., 0]
    expected = parallel(reference, q, k, v, 1 / (1 + torch.exp(-logit)), torch.zeros_like(logit))
    found = reference.run(DeltaNet(), q, k, v, chunks, layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_gated_deltanet(reference, qkv, trained: bool, learned, chunks: list[int]) -> None:
    """beta as DeltaNet's, the log-decay -A dt; untrained a half, and -0.1 and -0.001 in the two heads."""
    q, k, v = qkv
    layer, logit = reference.layer, torch.zeros(reference.HKV, reference.T, dtype=torch.float64)
    g = -torch.tensor([0.1, 0.001], dtype=torch.float64)[:, None].expand_as(logit)
    if trained:
        layer, p = learned(GatedDeltaNet())
        x = v[0].double()
        logit = (torch.einsum("htd,hdn->htn", x, p["beta.weight"]) + p["beta.bias"])[..., 0]
        dt = torch.einsum("htd,hdn->htn", x, p["alpha.logit.weight"]) + p["alpha.logit.bias"]
        g = (-p["alpha.log_A"].exp() * torch.log1p(dt.exp()))[..., 0]
    expected = parallel(reference, q, k, v, 1 / (1 + torch.exp(-logit)), g)
    found = reference.run(GatedDeltaNet(), q, k, v, chunks, layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
