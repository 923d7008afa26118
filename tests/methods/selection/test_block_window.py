"""A window that loses whole blocks, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached
from kvfrontier.methods.axes import Positions
from kvfrontier.methods.positions.in_cache import InCachePositions
from kvfrontier.methods.selection.block_window import BlockWindowSelection, segment


@pytest.mark.parametrize(("window", "block"), [(0, 24), (24, 24), (20, 7), (1, 1), (500, 8)])
@pytest.mark.parametrize("positions", [Positions(), InCachePositions()], ids=["original", "in_cache"])
def test_a_query_sees_the_window_and_the_block_that_is_filling(
    reference, qkv, window: int, block: int, positions: Positions, chunks: list[int]
) -> None:
    q, k, v = qkv
    qr, kr = reference.rotate(q), reference.rotate(k)

    def output(h: int, g: int, t: int) -> Tensor:
        first = max(0, t - window) // block * block
        return reference.attend(qr[0, h, t], kr[0, g, first : t + 1], v[0, g, first : t + 1])

    # Rotation is relative, so that both positions must give the same.
    method = Cached(BlockWindowSelection(window, block), positions=positions)
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(("window", "block"), [(0, 24), (24, 24), (20, 7), (0, 1)])
def test_the_state_holds_less_than_a_block_over_the_window(reference, window: int, block: int) -> None:
    selection = BlockWindowSelection(window, block)
    held = [selection.slots(n, 0, True, reference.layer) for n in range(200)]
    assert max(held) == window + block - 1
    assert min(held[window:]) == window
    assert all((n - m) % selection.together == 0 for n, m in enumerate(held))


def test_bad_sizes_say_what_to_do() -> None:
    for make, message in (
        (lambda: BlockWindowSelection(-1), "raise method.window"),
        (lambda: BlockWindowSelection(block=0), "set method.block to at least 1"),
        (lambda: segment(0), "set method.segment to at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_segment_alone_has_no_knob_to_solve_a_budget_with() -> None:
    assert segment(16) == BlockWindowSelection(0, 16)
    assert (segment(16).knob, BlockWindowSelection(8).knob) == (None, "window")
