"""Levels of least squared error for numbers (k-means, in one dimension)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers of a prompt, at equal distances, on which levels are fitted, and steps of k-means.
SAMPLE, STEPS = 1 << 16, 20


def k_means(x: Tensor, bits: int) -> Tensor:
    """2^bits levels [B, 2^bits], ascending, of least squared error for the numbers [B, n]; from quantiles.

    The number next to a cut belongs to both sides, by how far the cut is from its neighbours: the levels then depend
    continuously on the numbers, and rounding in another order does not move them.
    """
    x = x[:, :: -(-x.shape[1] // SAMPLE)].double().sort(1).values.contiguous()
    n, count = x.shape[1], 2**bits
    levels = x[:, (torch.arange(count, device=x.device) * 2 + 1) * n // (2 * count)]
    below = torch.nn.functional.pad(x.cumsum(1), (1, 0))
    for _ in range(STEPS):
        cuts = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        right = torch.searchsorted(x, cuts).clamp(1, n - 1) if n > 1 else torch.zeros_like(cuts).long()
        left = (right - 1).clamp(min=0)
        a, b = x.gather(1, left), x.gather(1, right)
        share = ((cuts - a) / (b - a).clamp(min=1e-30)).clamp(0, 1)
        ranks = torch.nn.functional.pad(left + share, (1, 0))
        sums = torch.nn.functional.pad(below.gather(1, left) + share * a, (1, 0))
        ranks, sums = (torch.cat([y, end], 1) for y, end in ((ranks, below[:, -1:] * 0 + n), (sums, below[:, -1:])))
        members = ranks.diff(dim=1)
        levels = torch.where(members > 0.5, sums.diff(dim=1) / members.clamp(min=0.5), levels)
    return levels.sort(1).values
