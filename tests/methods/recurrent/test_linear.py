"""Linear attention against its formula."""

from __future__ import annotations

import torch

from kvfrontier.methods import Linear


def test_linear(reference, qkv, chunks: list[int]) -> None:
    """Equations 18-20, one token at a time, in float64."""
    q, k, v = qkv
    qr, kr, values = reference.rotate(q).double(), reference.rotate(k).double(), v.double()
    expected = torch.zeros(1, reference.HQ, reference.T, reference.D, dtype=torch.float64)
    for h in range(reference.HQ):
        g = h * reference.HKV // reference.HQ
        S, z = torch.zeros(reference.D, reference.D, dtype=torch.float64), torch.zeros(reference.D, dtype=torch.float64)
        for t in range(reference.T):
            fq, fk = (torch.where(x > 0, x + 1, x.exp()) for x in (qr[0, h, t], kr[0, g, t]))
            S, z = S + torch.outer(fk, values[0, g, t]), z + fk
            expected[0, h, t] = fq @ S / (fq @ z)
    torch.testing.assert_close(reference.run(Linear(), q, k, v, chunks), expected.float(), atol=1e-5, rtol=1e-5)
