"""Vertical-slash prefill against the paper's algorithm, written as loops over queries and keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense
from kvfrontier.methods.patterns import vertical_slash
from kvfrontier.methods.patterns.gathered import gather_for_heads
from kvfrontier.methods.patterns.vertical_slash import VerticalSlash

VERTICALS, SLASHES, LAST, SINKS, RECENT = 9, 16, 12, 3, 4


def chosen(q: Tensor, k: Tensor, scale: float, block: int) -> tuple[set[int], set[int]]:
    """Columns, and bands, that the last queries of one head look at; q and k [n, D] from position 0."""
    n = len(k)
    columns, bands = torch.zeros(n), torch.zeros(n)
    for t in range(n - LAST, n):
        for s, weight in enumerate((k[: t + 1] @ q[t] * scale).softmax(0)):
            columns[s] += weight
            bands[t // block - s // block] += weight
    columns[:SINKS] = float("inf")
    for distance in range(RECENT):
        bands[-(-distance // block)] = float("inf")
    return set(columns.topk(VERTICALS).indices.tolist()), set(bands.topk(SLASHES // block).indices.tolist())


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("cut", [70, 40], ids=["one-call", "two-calls"])
def test_a_call_sees_the_columns_and_diagonals_of_its_last_queries(reference, qkv, block: int, cut: int) -> None:
    """Every call by its own; after the prompt attention is dense."""
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)
    ends = sorted({cut, reference.PROMPT})
    method = VerticalSlash(VERTICALS, SLASHES, LAST, SINKS, RECENT, block)
    patterns = {
        (h, end): chosen(qr[0, h, :end], kr[0, h // 2, :end], reference.SCALE, block) for h in range(4) for end in ends
    }

    def output(h: int, g: int, t: int) -> Tensor:
        seen = list(range(t + 1))
        if t < reference.PROMPT:
            columns, bands = patterns[h, min(end for end in ends if t < end)]
            seen = [s for s in seen if s in columns or t // block - s // block in bands]
        return reference.attend(qr[0, h, t], kr[0, g, seen], v[0, g, seen])

    chunks = [b - a for a, b in zip([0, *ends], [*ends, reference.T], strict=True)]
    torch.testing.assert_close(reference.run(method, q, k, v, chunks), reference.by_token(output), atol=5e-6, rtol=1e-5)


def test_the_cache_stays_whole(reference) -> None:
    """Its saving is in time: bytes are dense's."""
    for prompt, new in ((1, 0), (300, 7)):
        ours, dense = (m.footprint(reference.layer, 2, prompt, new) for m in (VerticalSlash(), Dense()))
        assert ours == dense


@pytest.mark.parametrize("n", [500, 2000])
def test_the_work_of_a_tile_does_not_grow_with_the_text(reference, monkeypatch, n: int) -> None:
    """Three bands of blocks of 4, 9 columns, and the own block: that many keys are gathered, and no more."""
    sizes = set()

    def spy(x: Tensor, index: Tensor) -> Tensor:
        sizes.add(index.shape[2])
        return gather_for_heads(x, index)

    monkeypatch.setattr(vertical_slash, "gather_for_heads", spy)
    q, k, v = (torch.randn(1, h, n, reference.D) for h in (4, 2, 2))
    VerticalSlash(VERTICALS, SLASHES, LAST, SINKS, RECENT, 4)._sparse(q[:, :, -64:], k, v, reference.layer, lse=False)
    assert sizes == {3 * 4 + 9 + 4}


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"verticals": 8, "sinks": 9}, r"raise method\.verticals or lower method\.sinks"),
        ({"recent": 0}, r"set method\.recent to at least 1"),
        ({"slashes": 8, "recent": 9}, r"raise method\.slashes or lower method\.recent"),
        ({"last": 0}, "set both to at least 1"),
    ],
)
def test_bad_values_say_what_to_change(wrong: dict[str, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        VerticalSlash(**wrong)
