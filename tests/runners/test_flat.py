"""A bounded method decodes for as long as one likes in the memory that it has after its window."""

from __future__ import annotations

import sys

import pytest
import torch

from kvfrontier import methods
from kvfrontier.runners import flat, models
from kvfrontier.runners.session import Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


def decoded(method: methods.Method, tokens: int, step: int) -> flat.Flat:
    tiny = {
        "kind": "tiny", "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "hidden": 16, "intermediate": 16,
        "max_context": 1 << 19, "device": "cpu",
    }  # fmt: skip
    model = models.load(tiny).model
    with torch.no_grad(), Session(model, method) as session:
        session.prefill(torch.zeros(1, 128, dtype=torch.long))
        return flat.watch(session, tokens, step=step)


def test_sixteen_thousand_tokens_are_decoded_in_flat_memory():
    found = decoded(methods.Sinks(window=60, sinks=4), 1 << 14, step=16)
    assert found.live_ratio <= 1.01
    assert found.resident_ratio <= 1.10


def test_dense_attention_is_not_flat():
    """Or the measurement could not fail."""
    found = decoded(methods.Dense(), 1 << 12, step=16)
    # From 128 + 1,024 tokens to 128 + 4,096: keys and values of one head of 8 elements of 4 bytes.
    assert found.live[0] >= (128 + 1024) * 2 * 8 * 4
    assert found.live_ratio > 3


@pytest.mark.slow
@pytest.mark.parametrize("method", [methods.Window(64), methods.Sinks(window=60, sinks=4)], ids=["window", "sinks"])
def test_a_quarter_million_tokens_are_decoded_in_flat_memory(method):
    found = decoded(method, 1 << 18, step=1)
    assert found.live_ratio <= 1.01
    assert found.resident_ratio <= 1.10
