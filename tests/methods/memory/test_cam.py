"""CaM over H2O, token by token, with draws of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kvfrontier.methods import Cached
from kvfrontier.methods.memory.cam import CaM, CamMemory
from kvfrontier.methods.selection.h2o import H2OSelection
from kvfrontier.methods.selection.snapkv import SnapKVSelection


def drawn(seed: int, layer: int, head: int, number: int) -> float:
    """In [0, 1): the hash of all four, by three rounds of shifts and products each."""

    def mixed(x: int) -> int:
        for _ in range(3):
            x = ((x ^ (x >> 16)) * 0x45D9F3B) % 2**32
        return x ^ (x >> 16)

    return mixed(mixed(mixed(mixed(seed) ^ layer) ^ head) ^ number) / 2**32


@pytest.mark.parametrize(
    ("budget", "recent", "local", "against"), [(24, 12, 8, "cache"), (12, 4, 1, "window"), (10, 10, 32, "window")]
)
def test_cam(reference, qkv, budget: int, recent: int, local: int, against: Any, chunks: list[int]) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q)[0], reference.rotate(k)[0]
    expected = torch.zeros(1, reference.HQ, reference.T, reference.D)
    draws: list[bool] = []
    for g in range(reference.HKV):
        heads = [h for h in range(reference.HQ) if h * reference.HKV // reference.HQ == g]
        tokens: list[int] = []
        values, mass, left = v[0, g].clone(), torch.zeros(reference.T), 0
        for t in range(reference.T):
            tokens.append(t)
            for h in heads:
                weights = (kr[g, tokens] @ qr[h, t] * reference.SCALE).softmax(0)
                expected[0, h, t] = weights @ values[tokens]
                mass[tokens] += weights
            if len(tokens) <= budget:
                continue
            evicted = min(tokens[: len(tokens) - recent], key=lambda s: float(mass[s]))
            tokens.remove(evicted)
            window = tokens[-local:]
            theirs = mass[window].mean() if against == "window" else mass[tokens].max()
            chance = min(1.0, float(mass[evicted] / theirs))
            draws.append(drawn(3, reference.layer.index, g, left) < chance)
            left += 1
            if draws[-1]:
                values[window] += values[evicted] / len(window)
    # Of heavy hitters that leave, none has received less than the newest token.
    assert all(draws) if local == 1 else 0 < sum(draws) < len(draws)
    got = reference.run(CaM(budget, recent, local=local, against=against, seed=3), q, k, v, chunks)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_its_state_is_the_size_of_h2os(reference) -> None:
    merged, plain = CaM(24), Cached(H2OSelection(24))
    assert merged.footprint(reference.layer, 2, 90) == plain.footprint(reference.layer, 2, 90)


def test_a_selection_that_counts_no_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps no count of it; choose method/selection=h2o"):
        Cached(SnapKVSelection(), memory=CamMemory())
    with pytest.raises(ValueError, match=r"method\.local"):
        CaM(local=0)
