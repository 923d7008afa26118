"""What a selection keeps must not depend on where keys stand: before the first eviction a token's slot is its position,
so original positions and positions in the cache score alike. (Scored as stored, before RoPE, other tokens would stay.)
"""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods import Cached, Step
from kvfrontier.methods.axes import Selection
from kvfrontier.methods.positions.alibi import AlibiPositions
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.expected_attention import ExpectedAttentionSelection
from kvfrontier.methods.selection.h2o import H2OSelection
from kvfrontier.methods.selection.key_norm import KeyNormSelection
from kvfrontier.methods.selection.keydiff import KeyDiffSelection
from kvfrontier.methods.selection.pyramidkv import PyramidKVSelection
from kvfrontier.methods.selection.random import RandomSelection
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.selection.tova import TOVASelection

SELECTIONS = [
    H2OSelection(budget=24, recent=8, block=46),
    TOVASelection(budget=24, block=46),
    SnapKVSelection(budget=24, window=8, kernel=3),
    KeyNormSelection(24),
    KeyDiffSelection(24),
    RandomSelection(24),
    PyramidKVSelection(budget=24, window=8, kernel=3),
    ExpectedAttentionSelection(24, future=16),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("chunks", [[70], [33, 7, 30]], ids=["one-shot", "chunks"])
def test_what_stays_does_not_depend_on_the_positions_axis(
    reference, qkv, selection: Selection, chunks: list[int]
) -> None:
    q, k, v = qkv
    kept = []
    for method in (Cached(selection), Cached(selection, positions=InCachePositions())):
        state, a = method.init_state(reference.layer, 1), 0
        for n in chunks:
            at = slice(a, a + n)
            step = Step(torch.arange(a, a + n)[None], a, unrotated=lambda at=at: (q[:, :, at], k[:, :, at]))
            qr, kr = reference.rotate(q)[:, :, at], reference.rotate(k)[:, :, at]
            method.attend(qr, kr, v[:, :, at], state, reference.layer, step)
            a += n
        method.seal(state, reference.layer)
        values = method.store.read(state.store, 0, method.store.n(state.store))[1]
        # Values are unique and have no positions: they tell which tokens stayed.
        kept.append([[(v[0, g] == x).all(1).nonzero().item() for x in values[0, g]] for g in range(reference.HKV)])
    assert [len(head) for head in kept[0]] == [24, 24]
    assert kept[0] == kept[1]


def test_a_selection_does_not_judge_columns_that_positions_add() -> None:
    """ALiBi's bias is a column of the key as attended; its norm says nothing about the token."""
    with pytest.raises(ValueError, match="adds columns to keys"):
        Cached(KeyNormSelection(24), positions=AlibiPositions())
