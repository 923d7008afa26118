"""Blocks against tokens one by one, forward and backward: what makes recurrent methods trainable. By processor time,
which other processes do not stretch."""

import math
import time

import pytest
import torch

from kvfrontier.methods import Layer, Step, registry

LAYER = Layer(index=0, count=1, hq=2, hkv=2, d=32, dv=32, scale=32**-0.5)


def seconds(name, T, piece, times=3):
    """Of the fastest of several training steps of one layer, read in pieces."""
    method = registry.build({"name": name})
    found = []
    for _ in range(times):
        q, k, v = (torch.randn(1, 2, T, 32, generator=torch.Generator().manual_seed(i)) for i in range(3))
        for x in (q, k, v):
            x.requires_grad_(True)
        begun = time.process_time()
        state, out = method.init_state(LAYER, 1), []
        for a in range(0, T, piece):
            at = slice(a, min(T, a + piece))
            step = Step(torch.arange(at.start, at.stop)[None], a)
            out.append(method.attend(q[:, :, at], k[:, :, at], v[:, :, at], state, LAYER, step))
        torch.cat(out, 2).square().mean().backward()
        found.append(time.process_time() - begun)
        assert q.grad is not None
    return min(found)


def exponent(name, short, long):
    return math.log(seconds(name, long, long) / seconds(name, short, short)) / math.log(long / short)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "gla", "deltanet"])
def test_blocks_are_ten_times_as_fast_as_the_recurrence_at_2048_tokens(name):
    assert seconds(name, 2048, 1, times=1) > 10 * seconds(name, 2048, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "gla", "deltanet"])
def test_a_training_step_in_blocks_grows_with_the_length(name):
    assert exponent(name, 1024, 8192) <= 1.1


@pytest.mark.slow
def test_one_of_dense_attention_grows_with_its_square():
    assert exponent("dense", 1024, 4096) > 1.5
