"""DuoAttention: which heads hold what, and what they see."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense, Layer, Sinks
from kvfrontier.methods.patterns.duo import Duo, HeadKinds


def heads_of_kind(method: HeadKinds, layers: int, hkv: int) -> list[list[int]]:
    return [method.heads(Layer(i, layers, 2 * hkv, hkv, 16, 16, 1.0))[0] for i in range(layers)]


def test_retrieval_heads_see_all_and_streaming_heads_see_sinks_and_window(reference, qkv, chunks: list[int]) -> None:
    """With half of two heads, the second retrieves."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if g == 1 or s < 3 or s > t - 20]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    got = reference.run(Duo(0.5, window=20, sinks=3), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("share", "same"), [(1.0, Dense()), (0.0, Sinks(window=20, sinks=3, positions="original"))], ids=["all", "none"]
)
def test_one_kind_alone_is_the_method_it_is_made_of(reference, qkv, chunks: list[int], share, same) -> None:
    got, expected = (reference.run(m, *qkv, chunks) for m in (Duo(share, window=20, sinks=3), same))
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 6), (0.4, 9), (0.5, 12), (1.0, 24)])
def test_without_scores_the_share_is_spread_evenly(share: float, count: int) -> None:
    """No layer has more than one retrieval head more than another."""
    sizes = [len(heads) for heads in heads_of_kind(Duo(share), 6, 4)]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("suffix", ["json", "tsv"])
def test_scores_of_a_file_are_cut_at_their_quantile(tmp_path, share: float, suffix: str) -> None:
    """Heads whose score reaches the quantile 1 - share, none at share 0."""
    scores = torch.rand(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    file = tmp_path / f"full_attention_heads.{suffix}"
    rows = scores.tolist()
    file.write_text(json.dumps(rows) if suffix == "json" else "\n".join("\t".join(map(repr, r)) for r in rows) + "\n")
    cut = torch.quantile(scores, 1 - share) if share else float("inf")
    expected = [[h for h in range(4) if scores[i, h] >= cut] for i in range(5)]
    assert heads_of_kind(Duo(share, pattern=str(file)), 5, 4) == expected


def test_a_pattern_of_another_model_is_refused() -> None:
    method = HeadKinds(scores=((0.5, 0.2),) * 3)
    layer = Layer(0, 3, 4, 2, 16, 16, 1.0)
    method.validate(layer)
    with pytest.raises(ValueError, match=r"a row of 4 scores for each of 3 layers.*method\.pattern"):
        method.validate(replace(layer, hkv=4))


def test_streaming_heads_hold_their_window_alone(reference) -> None:
    """Of two heads one holds 1,000 tokens and one 24."""
    footprint = Duo(0.5, window=20, sinks=4).footprint(reference.layer, 1, 1000)
    assert footprint.held.payload == (1000 + 24) * 2 * reference.D * 4


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"set method\.retrieval from 0 to 1"):
        Duo(1.5)
    with pytest.raises(ValueError, match=r"set method\.window to at least 1"):
        Duo(window=0)
