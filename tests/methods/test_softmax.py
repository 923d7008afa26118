"""What holds for every method that attends by softmax."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kvfrontier.methods import Kivi, MovingAverage, Sinks, SnapKV, Window


def test_soft_capping_reaches_every_softmax_method(reference, qkv) -> None:
    q, k, v = (x * 4 for x in qkv)
    layer = replace(reference.layer, softcap=3.0)
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        x = 3.0 * torch.tanh(kr[0, g, : t + 1] @ qr[0, h, t] * reference.SCALE / 3.0)
        return x.softmax(0) @ v[0, g, : t + 1]

    expected = reference.by_token(output)
    for method in (
        Window(reference.T),
        Sinks(reference.T, 4),
        SnapKV(reference.T, 8),
        MovingAverage(reference.T),
        Kivi(4, 8, 96),
    ):
        torch.testing.assert_close(
            reference.run(method, q, k, v, [reference.PROMPT] + [1] * (reference.T - reference.PROMPT), layer),
            expected,
            atol=2e-5,
            rtol=1e-5,
        )
