"""Which selections look at the prompt's last queries: the flag that stands beside a score whose question they have seen
must be neither forgotten nor claimed in vain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Step
from kvfrontier.methods.axes import Selection
from kvfrontier.methods.selection.adakv import AdaKVSelection
from kvfrontier.methods.selection.block_window import BlockWindowSelection
from kvfrontier.methods.selection.expected_attention import ExpectedAttentionSelection
from kvfrontier.methods.selection.h2o import H2OSelection
from kvfrontier.methods.selection.key_norm import KeyNormSelection
from kvfrontier.methods.selection.keydiff import KeyDiffSelection
from kvfrontier.methods.selection.pyramidkv import PyramidKVSelection
from kvfrontier.methods.selection.random import RandomSelection
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.selection.tova import TOVASelection
from kvfrontier.methods.selection.window import WindowSelection
from kvfrontier.methods.stores.dense import DenseStore
from kvfrontier.methods.stores.ragged import RaggedStore

SELECTIONS = [
    WindowSelection(20, 4),
    BlockWindowSelection(20, 8),
    H2OSelection(24, block=66),
    TOVASelection(24, block=66),
    SnapKVSelection(24, window=8, kernel=3),
    PyramidKVSelection(24, window=8, kernel=3),
    AdaKVSelection(24, window=8, kernel=3),
    ExpectedAttentionSelection(24, future=16),
    KeyNormSelection(24),
    KeyDiffSelection(24),
    RandomSelection(24),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: type(s).__name__)
def test_what_stays_depends_on_the_last_queries_just_where_it_is_declared(reference, qkv, selection: Selection) -> None:
    """The last eight of 90 queries are others, and nothing else is; both blocks end with them."""
    q, k, v = qkv
    other = torch.cat([q[:, :, :-8], -3 * q[:, :, -8:]], 2)
    method = Cached(selection, RaggedStore() if selection.ragged else DenseStore())

    def kept(q: Tensor) -> Tensor:
        state = method.init_state(reference.layer, 1)
        step = Step(torch.arange(reference.T)[None], 0, unrotated=lambda: (q, k))
        method.attend(reference.rotate(q), reference.rotate(k), v, state, reference.layer, step)
        method.seal(state, reference.layer)
        return state.store.v.view()

    assert torch.equal(kept(q), kept(other)) != method.query_sensitive
