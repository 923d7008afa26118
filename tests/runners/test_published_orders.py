"""What papers found of a cache, found again on the embedded model: KL from dense attention on 128 tokens of a play,
after 640 tokens were compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvfrontier.methods import Dense, registry
from kvfrontier.runners import tasks
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.session import Session

pytestmark = pytest.mark.slow

Loss = Callable[..., float]


@pytest.fixture(scope="module")
def loss(smollm2: LoadedModel) -> Loss:
    """KL (nats) of a method from dense."""
    task = tasks.make({"name": "perplexity", "texts": ["hamlet"], "scored": 128})

    def kl(**params: Any) -> float:
        method = registry.build(params)
        quality = task.run(
            lambda: Session(smollm2.model, method), lambda: Session(smollm2.model, Dense()), smollm2, 768, 0,
            chunk=512, progress=lambda _: None,
        )  # fmt: skip
        return quality.scores["kl"].value

    return kl


def test_at_two_bits_keys_by_channel_and_values_by_token_are_best_by_far(loss: Loss) -> None:
    """KIVI, arXiv:2402.02750, table 1."""
    found = {
        (keys, values): loss(name="quantized", bits=2, key_axis=keys, value_axis=values, group=32, residual=32)
        for keys in ("channel", "token")
        for values in ("channel", "token")
    }
    best = found.pop(("channel", "token"))
    assert 2 * best < min(found.values())
    assert max(found, key=lambda axes: found[axes]) == ("token", "channel")


def test_four_sinks_rescue_the_window(loss: Loss) -> None:
    """StreamingLLM, arXiv:2309.17453, table 1: the same number of tokens, four of them the first."""
    assert 4 * loss(name="sinks", window=252, sinks=4) < loss(name="window", window=256)


def test_rotation_helps_at_two_bits_and_hardly_at_four(loss: Loss) -> None:
    """QuaRot, arXiv:2404.00456: both by token, with and without a Hadamard rotation before."""
    both = {"group": 32, "residual": 32}
    plain = {bits: loss(name="quantized", bits=bits, key_axis="token", **both) for bits in (2, 4)}
    rotated = {bits: loss(name="rotated", bits=bits, **both) for bits in (2, 4)}
    assert rotated[2] < 0.75 * plain[2]
    assert abs(rotated[4] - plain[4]) < 0.01
