"""Attention-output error against outputs that are computed by hand from the same queries, keys and values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kvfrontier.methods import Dense, Kivi, SnapKV, Summary, Window
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.side_by_side import SideBySide
from kvfrontier.runners.tasks import make

TASK = make({"name": "attention_error", "texts": ["one"], "scored": 64, "block": 16})
CONTEXT = 400


def run(loaded: Any, method: Any) -> Any:
    return TASK.run(
        lambda: Session(loaded.model, method), lambda: Session(loaded.model, Dense()), loaded, CONTEXT, 0, chunk=128
    )


def test_dense_attention_is_no_way_from_itself(tiny):
    quality = run(tiny, Dense())
    assert quality.scores["error"].value == 0
    assert quality.samples[0]["layers"] == [0] * tiny.model.config.num_hidden_layers


def test_a_method_that_keeps_more_is_nearer_in_every_layer(tiny):
    small, large, bits4, bits2 = (
        run(tiny, method)
        for method in (Window(window=16), Window(window=256), Kivi(bits=4, residual=32), Kivi(bits=2, residual=32))
    )
    for near, far in ((large, small), (bits4, bits2)):
        assert near.scores["error"].value < far.scores["error"].value
        for a, b in zip(near.samples[0]["layers"], far.samples[0]["layers"], strict=True):
            assert 0 < a < b


@torch.no_grad()
def test_a_layer_s_error_is_that_of_softmax_over_the_tokens_that_it_lacks(tiny, monkeypatch):
    """Window attention by hand: q, k and v are caught, and attended with and without the mask of a window."""
    caught: dict[int, list[Any]] = {}
    attend = Session.attend

    def catch(self, index, q, k, v, sinks, pre):
        if type(self) is SideBySide:
            caught.setdefault(index, []).append((q, k, v))
        return attend(self, index, q, k, v, sinks, pre)

    monkeypatch.setattr(Session, "attend", catch)
    ids = torch.randint(40, 100, (1, 50), generator=torch.Generator().manual_seed(1))
    with SideBySide(tiny.model, Window(window=8)) as s:
        s.prefill(ids[:, :40])
        list(s.forced(ids[:, 40:]))
        for layer in s.layers:
            q, k, v = (torch.cat(parts, 2) for parts in zip(*caught[layer.index], strict=True))
            k, v = (x.repeat_interleave(layer.hq // layer.hkv, 1) for x in (k, v))
            z = q @ k.mT * layer.scale
            i = torch.arange(50)
            seen = i[:, None] >= i[None]
            outs = [
                z.masked_fill(~mask, float("-inf")).softmax(-1) @ v
                for mask in (seen, seen & (i[:, None] - i[None] < 8))
            ]
            far, size = (x.pow(2).sum((1, 3)).sqrt()[0, 40:] for x in (outs[1] - outs[0], outs[0]))
            assert torch.allclose(torch.cat(s.errors[layer.index], 1)[0], far / size, atol=1e-5)


@torch.no_grad()
def test_the_model_goes_on_with_dense_attention_s_outputs(tiny):
    ids = torch.arange(30, 90)[None]
    with Session(tiny.model, Dense()) as s:
        expected = s.prefill(ids)
    with SideBySide(tiny.model, SnapKV(budget=20, window=4)) as s:
        assert torch.allclose(s.prefill(ids), expected, atol=1e-5)


def test_a_method_that_reads_in_an_order_of_its_own_is_refused(tiny):
    with pytest.raises(UsageError, match="task=perplexity"), SideBySide(tiny.model, Summary()):
        pass
