"""A random rotation that costs nothing to store: a Hadamard matrix with random signs.

    R = diag(s) H / sqrt(d),  s = +-1 from a seed,  H_2d = [[H_d, H_d], [H_d, -H_d]]

Every channel is spread over all of them, so that no outlier is left, and coordinates are nearly normal. Where d is no
power of two, channels are rotated in blocks of its largest power of two.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(d: int, seed: int, like: Tensor) -> Tensor:
    """R [d, d] in float32 on the device of `like`."""
    size = d & -d
    i = torch.arange(size)
    shared = i[:, None] & i  # H_ij is -1 to the number of bits that i and j share
    parity = sum((shared >> bit & 1 for bit in range(size.bit_length())), torch.zeros_like(shared)) % 2
    signs = torch.randint(0, 2, (d, 1), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    blocks = torch.block_diag(*[1.0 - 2.0 * parity] * (d // size))
    return (signs * blocks * size**-0.5).to(like.device)
