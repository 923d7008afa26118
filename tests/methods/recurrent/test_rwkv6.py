"""RWKV-6 against its recurrence, token by token in float64."""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods.recurrent.rwkv6 import RWKV6


@pytest.mark.parametrize("trained", [False, True])
def test_rwkv6(reference, qkv, trained: bool, learned, chunks: list[int]) -> None:
    """o_t = r_t (S + (u k_t)^T v_t) and only then S = diag(w_t) S + k_t^T v_t, with row vectors as in the paper."""
    q, k, v = qkv
    method, layer, D = RWKV6(rank=3), reference.layer, reference.D
    slow = torch.tensor([-1 - 5 * i / (D - 1) for i in range(D)], dtype=torch.float64)
    u, d = torch.ones(reference.HKV, D, dtype=torch.float64), slow.expand(reference.HKV, reference.T, D)
    if trained:
        layer, p = learned(method)
        u = p["u"][:, 0]
        d = torch.tanh(v[0].double() @ p["down.weight"]) @ p["up.weight"] + p["up.bias"]
    r, keys = (reference.rotate(x).double()[0] for x in (q, k))
    expected = torch.zeros(1, reference.HQ, reference.T, D, dtype=torch.float64)
    for h in range(reference.HQ):
        i = h * reference.HKV // reference.HQ
        S = torch.zeros(D, D, dtype=torch.float64)
        for t in range(reference.T):
            written = torch.outer(keys[i, t], v[0, i, t].double())
            expected[0, h, t] = reference.SCALE * r[h, t] @ (S + u[i, :, None] * written)
            S = torch.exp(-torch.exp(d[i, t]))[:, None] * S + written
    found = reference.run(method, q, k, v, chunks, layer)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.rank"):
        RWKV6(rank=0)
