"""RetNet, SSD and GLA, token by token and in blocks, against their parallel forms: T x T weights in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.recurrent.gla import GLA
from kvfrontier.methods.recurrent.retnet import RetNet
from kvfrontier.methods.recurrent.ssd import SSD


def parallel(reference, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """o_t = scale sum over s <= t of (sum_f q_tf k_sf exp(g_(s+1)f + ... + g_tf)) v_s; g [Hkv, T, 1 or D]."""
    qr, kr = reference.rotate(q).double()[0], reference.rotate(k).double()[0]
    out = torch.zeros(1, reference.HQ, reference.T, reference.D, dtype=torch.float64)
    for h in range(reference.HQ):
        i = h * reference.HKV // reference.HQ
        G = g[i].cumsum(0)
        decay = (G[:, None] - G[None]).exp()
        weights = (qr[h][:, None] * kr[i][None] * decay).sum(-1).tril() * reference.SCALE
        out[0, h] = weights @ v[0, i].double()
    return out.float()


def test_retnet(reference, qkv, chunks: list[int]) -> None:
    """gamma = 31/32 in the first head, 63/64 in the second."""
    q, k, v = qkv
    g = torch.tensor([31 / 32, 63 / 64], dtype=torch.float64).log()[:, None, None].expand(-1, reference.T, 1)
    expected = parallel(reference, q, k, v, g)
    torch.testing.assert_close(reference.run(RetNet(), q, k, v, chunks), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_ssd(reference, qkv, trained: bool, learned, chunks: list[int]) -> None:
    """The decay exp(-A dt) and the input dt v come from one step size; untrained A is 1 and dt 0.1 and 0.001."""
    q, k, v = qkv
    layer, x = reference.layer, v[0].double()
    dt, A = torch.tensor([0.1, 0.001], dtype=torch.float64).reshape(2, 1, 1).expand(-1, reference.T, 1), 1.0
    if trained:
        layer, p = learned(SSD())
        dt = torch.log1p(torch.exp(torch.einsum("htd,hdn->htn", x, p["logit.weight"]) + p["logit.bias"]))
        A = p["log_A"].exp()
    expected = parallel(reference, q, k, dt * v.double(), -A * dt)
    found = reference.run(SSD(), q, k, v, chunks, layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_gla(reference, qkv, trained: bool, learned, chunks: list[int]) -> None:
    """alpha = sigmoid(logit)^(1/tau) for each channel; untrained the logit is zero."""
    q, k, v = qkv
    method, layer, x = GLA(rank=4, tau=2.0), reference.layer, v[0].double()
    logit = torch.zeros(reference.HKV, reference.T, reference.D, dtype=torch.float64)
    if trained:
        layer, p = learned(method)
        for i in (0, 1):
            x = torch.einsum("htd,hdn->htn", x, p[f"{i}.weight"]) + p[f"{i}.bias"]
        logit = x
        assert logit.std() > 0.3
    expected = parallel(reference, q, k, v, (1 / (1 + torch.exp(-logit))).log() / 2)
    found = reference.run(method, q, k, v, chunks, layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_gates_that_would_grow_the_state_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.tau above 0"):
        GLA(tau=0.0)
    with pytest.raises(ValueError, match=r"method\.rank to at least 1"):
        GLA(rank=0)
