"""ThinK against its formula, channel by channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, SnapKV, Step
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.stores.think import ThinK, ThinKStore


def channels_that_stay(reference, qr: Tensor, kr: Tensor, g: int, tokens: list[int], ratio: float, n: int) -> list[int]:
    """By the norms of channels over the last n queries of the group, and over the keys of `tokens`."""
    group, D = reference.HQ // reference.HKV, reference.D
    score = []
    for j in range(D):
        queries = [
            qr[0, h, t, j].item() ** 2
            for h in range(g * group, (g + 1) * group)
            for t in range(reference.PROMPT - n, reference.PROMPT)
        ]
        keys = [kr[0, g, s, j].item() ** 2 for s in tokens]
        score.append(sum(queries) ** 0.5 * sum(keys) ** 0.5)
    return sorted(sorted(range(D), key=lambda j: -score[j])[: D - int(ratio * D)])


@pytest.mark.parametrize(("ratio", "window", "queries"), [(0.4, 8, 6), (0.75, 16, 32), (0.5, 100, 8), (0.3, 1, 1)])
def test_think(reference, qkv, ratio: float, window: int, queries: int, chunks: list[int]) -> None:
    """Exact until the prompt ends; then keys before the last but one multiple of the window have lost channels."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    thinned = torch.zeros_like(kr[0])
    for g in range(reference.HKV):
        stay = channels_that_stay(reference, qr, kr, g, list(range(reference.PROMPT)), ratio, queries)
        thinned[g, :, stay] = kr[0, g, :, stay]

    def output(h: int, g: int, t: int) -> Tensor:
        # `t` tokens came before; the flush follows the token that fills a window.
        m = 0 if t < reference.PROMPT else max(0, t // window - 1) * window
        keys = torch.cat([thinned[g, :m], kr[0, g, m : t + 1]])
        return reference.attend(qr[0, h, t], keys, v[0, g, : t + 1])

    got = reference.run(ThinK(ratio, window, queries), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_channels_are_chosen_by_the_keys_that_a_selection_keeps(reference, qkv, chunks: list[int]) -> None:
    """As in the paper, behind SnapKV, whose own state says which tokens stay."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    n, m, window = reference.PROMPT, 41, 8
    snap = SnapKV(m, 8, 5)
    state = snap.init_state(reference.layer, 1)
    snap.attend(qr[:, :, :n], kr[:, :, :n], v[:, :, :n], state, reference.layer, Step(torch.arange(n)[None], 0))
    snap.seal(state, reference.layer)
    kept = [
        [int((kr[0, g, :n] == key).all(1).nonzero()) for key in state.store.k.view()[0, g]]
        for g in range(reference.HKV)
    ]
    thinned = torch.zeros_like(kr[0])
    for g, tokens in enumerate(kept):
        stay = channels_that_stay(reference, qr, kr, g, tokens, 0.5, 6)
        thinned[g, :, stay] = kr[0, g, :, stay]

    def output(h: int, g: int, t: int) -> Tensor:
        if t < n:
            return reference.attend(qr[0, h, t], kr[0, g, : t + 1], v[0, g, : t + 1])
        slots = kept[g] + list(range(n, t + 1))
        thin = max(0, (len(slots) - 1) // window - 1) * window
        keys = torch.cat([thinned[g, slots[:thin]], kr[0, g, slots[thin:]]])
        return reference.attend(qr[0, h, t], keys, v[0, g, slots])

    got = reference.run(Cached(snap.selection, ThinKStore(0.5, window, 6)), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_a_token_reads_the_numbers_of_the_channels(reference) -> None:
    """Of 50 tokens 40 have keys of 8 channels, whose numbers in int16 are read with them."""
    footprint = ThinK(0.5, window=8).footprint(reference.layer, 3, 50)
    assert footprint.read == 2 * (40 * 8 * 4 + 10 * 16 * 4 + 50 * 16 * 4) + 2 * 8 * 2
    assert footprint.held.payload == 3 * footprint.read


def test_bad_values_say_what_to_change() -> None:
    for bad in ({"ratio": 1.0}, {"window": 0}, {"queries": 0}):
        with pytest.raises(ValueError, match=f"method.{next(iter(bad))}"):
            ThinK(**bad)  # pyright: ignore[reportArgumentType]


def test_queries_are_compared_with_keys_as_they_are_held() -> None:
    with pytest.raises(ValueError, match="places keys later"):
        Cached(store=ThinKStore(), positions=InCachePositions())
    assert ThinK().query_sensitive
    assert (ThinK().adopts, ThinK().last_queries) == ("kv+queries", 32)
