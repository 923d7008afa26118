"""Learned parts, for tests of what a token decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, Method

Learned = Callable[[Method], tuple[Layer, dict[str, Tensor]]]


@pytest.fixture
def learned(reference) -> Learned:
    """The layer with a method's learnable parts, all of them moved from where they begin; and these in float64, by
    name."""

    def of(method: Method) -> tuple[Layer, dict[str, Tensor]]:
        torch.manual_seed(3)
        params = method.module(reference.layer)
        assert params is not None
        with torch.no_grad():
            for p in params.parameters():
                p.add_(0.3 * torch.randn_like(p))
        return replace(reference.layer, params=params), {n: p.detach().double() for n, p in params.named_parameters()}

    return of
