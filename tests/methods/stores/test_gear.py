"""GEAR's codec against its equation with an exact singular value decomposition, and when tokens are packed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.stores import repaired
from kvfrontier.methods.stores.gear import GEAR, GearStore
from kvfrontier.methods.stores.repaired import Repaired, subspace
from kvfrontier.methods.stores.uniform import Uniform


def tokens(n: int, d: int = 16, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, n, d, generator=g) * torch.linspace(0.3, 4, d) + torch.linspace(-5, 5, d)


def quantized(x: Tensor, bits: int) -> Tensor:
    """One vector through `bits`-bit codes between its ends, with scale and zero in fp16."""
    zero = x.min().half().float()
    scale = ((x.max() - zero) / (2**bits - 1)).half().float()
    return ((x - zero) / scale).round().clamp(0, 2**bits - 1) * scale + zero


@pytest.mark.parametrize("axis", ["channel", "token"])
@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_block_is_codes_and_outliers_and_a_low_rank_repair(monkeypatch, axis, side: int) -> None:
    """X ~ D + L + S, block by block and head by head; with steps enough, L is the best there is of its rank."""
    block, rank, x = 16, 3, tokens(32)
    codec = Repaired(Uniform(2, axis, 16), block, rank, 2 * side / 16)
    usual = codec.decode(codec.encode(x, []), []) - x
    monkeypatch.setattr(repaired, "STEPS", 200)
    patient = codec.decode(codec.encode(x, []), []) - x
    bests = []
    for b in range(2):
        for h in range(3):
            for a in range(0, 32, block):
                X, S, D = x[b, h, a : a + block], torch.zeros(block, 16), torch.zeros(block, 16)
                if axis == "channel":
                    X, S, D = X.T, S.T, D.T
                for vector, s, d in zip(X, S, D, strict=True):
                    order = vector.argsort()
                    for i in order[:side]:
                        s[i] = (vector[i] - vector[order[side]]).half()
                    for i in order[16 - side :]:
                        s[i] = (vector[i] - vector[order[15 - side]]).half()
                    d.copy_(quantized(vector - s, 2))
                bests.append(torch.linalg.svdvals(X - S - D)[rank:].square().sum())
                found = patient[b, h, a : a + block].square().sum()
                torch.testing.assert_close(found, bests[-1], rtol=1e-2, atol=1e-3)
    assert usual.square().sum() < 1.2 * sum(bests)


def test_an_outlier_does_not_widen_the_codes() -> None:
    """Entries that are far too large, in several channels and tokens: kept apart, they cost the others nothing."""
    x = tokens(16)
    for channel, token in ((3, 5), (7, 9), (11, 2), (14, 0)):
        x[:, :, token, channel] = 400.0
    errors = []
    for outliers in (0.0, 2 / 16):
        codec = Repaired(Uniform(2, "channel", 16), 16, 1, outliers)
        errors.append((codec.decode(codec.encode(x, []), []) - x)[..., [3, 7, 11, 14]].norm().item())
    assert errors[1] < errors[0] / 3, errors


def test_subspace_iteration_finds_what_has_low_rank() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, 20, 3, generator=g) @ torch.randn(4, 3, 16, generator=g)
    a, b = subspace(x, 3)
    torch.testing.assert_close(a @ b, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.mT @ a, torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=1e-5)


def test_a_decoded_token_sees_full_blocks_repaired_and_the_newest_in_full(reference, qkv, chunks: list[int]) -> None:
    """Until the prompt ends all is in full; then every full block of 16 is packed, this call's tokens after it."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    store = GearStore(16, bits=4, group=16, rank=2, outliers=0.1)
    packed = [
        codec.decode(codec.encode(x[:, :, :80], []), [])[0] for codec, x in zip(store.codecs, (kr, v), strict=True)
    ]

    def output(h: int, g: int, t: int) -> Tensor:
        n = t // 16 * 16 if t >= reference.PROMPT else 0
        keys, values = (torch.cat([low[g, :n], x[0, g, n : t + 1]]) for low, x in zip(packed, (kr, v), strict=True))
        return reference.attend(qr[0, h, t], keys, values)

    got = reference.run(GEAR(4, 16, 16, 2, 0.1), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-4, rtol=1e-4)


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"change method\.residual or method\.group"):
        GEAR(residual=40)
    with pytest.raises(ValueError, match=r"change method\.rank"):
        GEAR(rank=0)
    with pytest.raises(ValueError, match="set it from 0 to below 1"):
        GEAR(outliers=1.0)
