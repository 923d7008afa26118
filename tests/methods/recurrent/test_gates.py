"""What a token decides for itself is learned."""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods import Method
from kvfrontier.methods.recurrent.deltanet import DeltaNet
from kvfrontier.methods.recurrent.gated_deltanet import GatedDeltaNet
from kvfrontier.methods.recurrent.gla import GLA
from kvfrontier.methods.recurrent.rwkv6 import RWKV6
from kvfrontier.methods.recurrent.ssd import SSD
from kvfrontier.methods.state import measure

GATED = [SSD(), GLA(rank=4), DeltaNet(), GatedDeltaNet(), RWKV6(rank=4)]


@pytest.mark.parametrize("method", GATED, ids=lambda m: type(m).__name__)
def test_gradients_reach_every_learned_part(reference, qkv, method: Method, learned) -> None:
    layer, _ = learned(method)
    reference.run(method, *qkv, [70, 20], layer).square().sum().backward()
    for name, p in layer.params.named_parameters():
        assert p.grad is not None and p.grad.abs().min() > 0, f"no gradient reaches {name}"


@pytest.mark.parametrize("method", GATED, ids=lambda m: type(m).__name__)
def test_the_state_is_as_large_with_learned_parts_as_without(reference, method: Method, learned) -> None:
    layer, _ = learned(method)
    assert method.footprint(layer, 1, 100) == method.footprint(reference.layer, 1, 100)
    assert measure(method.init_state(layer, 1)) == measure(method.init_state(reference.layer, 1))


def test_what_is_learned_begins_the_same_from_the_same_seed(reference) -> None:
    for method in GATED:
        torch.manual_seed(5)
        one = method.module(reference.layer)
        torch.manual_seed(5)
        two = method.module(reference.layer)
        assert one is not None and two is not None
        assert all(map(torch.equal, one.parameters(), two.parameters()))
