"""H2O and TOVA against their papers' loops: one token at a time, and each head's list of the tokens it has kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvfrontier.methods.selection.h2o import H2O
from kvfrontier.methods.selection.tova import TOVA, TOVASelection

#: weights[h] of one token over the tokens kept by its head, after which `evict` changes the lists.
Evict = Callable[[int, dict[int, list[int]], dict[int, Tensor]], None]


def by_token(reference, q: Tensor, k: Tensor, v: Tensor, evict: Evict) -> Tensor:
    """Output [1, Hq, T, D] where the tokens that head g keeps are kept[g], the current one included."""
    qr, kr = reference.rotate(q), reference.rotate(k)
    kept: dict[int, list[int]] = {g: [] for g in range(reference.HKV)}
    out = torch.zeros(1, reference.HQ, reference.T, reference.D)
    for t in range(reference.T):
        weights = {}
        for g in kept:
            kept[g].append(t)
        for h in range(reference.HQ):
            g = h * reference.HKV // reference.HQ
            weights[h] = (kr[0, g, kept[g]] @ qr[0, h, t] * reference.SCALE).softmax(0)
            out[0, h, t] = weights[h] @ v[0, g, kept[g]]
        evict(t, kept, weights)
    return out


def _evicts(t: int, budget: int, block: int) -> bool:
    return t + 1 > budget and (t + 1 - budget) % block == 0


@pytest.mark.parametrize(("budget", "recent", "block"), [(24, 8, 1), (24, 24, 1), (20, 1, 7), (30, 10, 16)])
def test_h2o(reference, qkv, budget: int, recent: int, block: int, chunks: list[int]) -> None:
    """The newest stay, and of the others those with the most attention so far, summed over queries and the group."""
    q, k, v = qkv
    mass = {(g, s): 0.0 for g in range(reference.HKV) for s in range(reference.T)}

    def evict(t: int, kept: dict[int, list[int]], weights: dict[int, Tensor]) -> None:
        for h, w in weights.items():
            g = h * reference.HKV // reference.HQ
            for s, weight in zip(kept[g], w.tolist(), strict=True):
                mass[g, s] += weight
        if not _evicts(t, budget, block):
            return
        for g, tokens in kept.items():
            old = sorted(tokens[: len(tokens) - recent], key=lambda s, g=g: -mass[g, s])
            kept[g] = sorted(old[: budget - recent]) + tokens[len(tokens) - recent :]

    expected = by_token(reference, q, k, v, evict)
    got = reference.run(H2O(budget, recent, block), q, k, v, chunks)
    torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(("budget", "block"), [(24, 1), (1, 1), (30, 7)])
def test_tova(reference, qkv, budget: int, block: int, chunks: list[int]) -> None:
    """The tokens that the last query looks at least leave, on the mean of all heads, in all heads the same."""
    q, k, v = qkv

    def evict(t: int, kept: dict[int, list[int]], weights: dict[int, Tensor]) -> None:
        if not _evicts(t, budget, block):
            return
        mean = torch.stack(list(weights.values())).mean(0).tolist()
        best = sorted(range(len(mean)), key=lambda i: -mean[i])[:budget]
        for g, tokens in kept.items():
            kept[g] = [tokens[i] for i in sorted(best)]

    expected = by_token(reference, q, k, v, evict)
    got = reference.run(TOVA(budget, block), q, k, v, chunks)
    torch.testing.assert_close(got, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 5])
def test_a_block_holds_less_than_itself_over_the_budget(reference, block: int) -> None:
    """slots(n) = n up to the budget, then budget + (n - budget) mod block; the next eviction is at budget + block."""
    selection = TOVASelection(24, block)
    held = [selection.slots(n, 0, True, reference.layer) for n in range(80)]
    assert held[:25] == list(range(25))
    assert max(held) == 24 + block - 1
    assert [selection.room(n) for n in range(80)] == [24 + block - m for m in held]


def test_a_token_reads_the_mass_of_those_that_it_may_evict(reference) -> None:
    """24 tokens, and of each the mass in two heads, in float32."""
    footprint = H2O(24).footprint(reference.layer, 3, 1000)
    assert footprint.read == 24 * (reference.layer.kv_bytes + 2 * 4)
    assert footprint.held.live == 3 * footprint.read


def test_more_than_the_recent_tokens_is_heavy() -> None:
    with pytest.raises(ValueError, match=r"method\.recent"):
        H2O(budget=16, recent=17)
    with pytest.raises(ValueError, match=r"method\.block"):
        H2O(block=0)
