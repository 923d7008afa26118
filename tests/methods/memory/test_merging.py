"""LOOK-M's merging, token by token."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from kvfrontier.methods import Cached, SnapKV, Step, Window
from kvfrontier.methods.memory import merging
from kvfrontier.methods.memory.merging import LookM, MergingMemory
from kvfrontier.methods.selection.h2o import H2OSelection


@pytest.mark.parametrize("merge_by", ["pivot", "average", "weighted"])
@pytest.mark.parametrize("tile", [7, 1024])
def test_each_evicted_token_goes_into_the_kept_token_of_most_similar_key(
    reference, qkv, monkeypatch, merge_by, tile: int
) -> None:
    """Which tokens are evicted is SnapKV's business: those of its positions that its state lacks."""
    monkeypatch.setattr(merging, "TILE", tile)
    q, k, v = qkv
    step, layer = Step(torch.arange(reference.T)[None], 0), reference.layer
    states = []
    for method in (SnapKV(20, 8, 3), LookM(20, 8, 3, merge_by)):
        states.append(method.init_state(layer, 1))
        method.attend(q, k, v, states[-1], layer, step)
        method.seal(states[-1], layer)
    for g in range(reference.HKV):
        kept = [int((k[0, g] == row).all(1).nonzero()) for row in states[0].store.k.view()[0, g]]
        into: dict[int, list[int]] = {c: [] for c in kept}
        for e in set(range(reference.T)) - set(kept):
            into[max(kept, key=lambda c: float(cosine_similarity(k[0, g, c], k[0, g, e], 0)))].append(e)
        for x, buf in ((k[0, g], states[1].store.k), (v[0, g], states[1].store.v)):
            for slot, c in enumerate(kept):
                total = x[c].clone()
                for e in sorted(into[c]):
                    similarity = cosine_similarity(k[0, g, c], k[0, g, e], 0)
                    total += {"pivot": (x[e] + x[c]) / 2, "average": x[e], "weighted": similarity * x[e]}[merge_by]
                expected = total / (len(into[c]) + 1)
                torch.testing.assert_close(buf.view()[0, g, slot], expected, atol=1e-5, rtol=1e-5)
        assert max(map(len, into.values())) > 1


def test_it_merges_as_the_stream_goes_too(reference, qkv) -> None:
    """Over H2O, in a state of H2O's size, token by token as in one call."""
    method, plain = (Cached(H2OSelection(20, 1, 10), memory=m) for m in (MergingMemory(), Cached().memory))
    one_shot, stepwise = (reference.run(method, *qkv, chunks) for chunks in ([70, 20], [1] * 90))
    torch.testing.assert_close(one_shot, stepwise, atol=1e-5, rtol=1e-5)
    assert method.footprint(reference.layer, 1, 90) == plain.footprint(reference.layer, 1, 90)
    assert not torch.allclose(one_shot, reference.run(plain, *qkv, [70, 20]), atol=1e-3)


def test_what_leaves_by_age_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="selection 'window' lets none leave so; choose another selection"):
        Cached(Window(8).selection, memory=MergingMemory())
