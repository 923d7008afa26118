from dataclasses import replace

import pytest

from kvfrontier.methods import Layer
from kvfrontier.runners import compose
from kvfrontier.runners.plan import roofline
from kvfrontier.runners.plan.hardware import hardware

LAYER = Layer(index=0, count=1, hq=8, hkv=2, d=64, dv=64, scale=1.0)


def anatomy(name):
    compose.register()
    return roofline.anatomy({**compose.choice("model", name), "dtype": "bfloat16"})


def test_of_a_dense_model_every_weight_is_read_for_every_token():
    found = anatomy("llama-3.2-1b")
    assert found.read(1) == found.read(100) == found.weights
    assert found.products + found.head == 1_235_814_400


def test_of_experts_a_token_meets_few_and_a_batch_all():
    found = anatomy("gpt-oss-20b")
    assert found.met == 4 / 32
    assert found.products == pytest.approx(3.0e9, rel=0.1)
    assert found.read(1) < 0.25 * found.weights
    assert found.read(256) == pytest.approx(found.weights, rel=1e-6)


def test_decoding_is_bound_by_memory_and_a_long_prompt_by_compute():
    device, model = hardware("h100-80g"), anatomy("llama-3.2-1b")
    token = roofline.decode(device, model, [LAYER], 1, 1000, 10**6)
    assert token.bound == "memory"
    assert token.seconds == (model.weights + 10**6) / 3.35e12
    assert roofline.prefill(device, model, [LAYER], 1, 8192, None, 0).bound == "compute"
    assert roofline.prefill(device, model, [LAYER], 1, 1, None, 0).bound == "memory"


def test_a_window_bounds_the_pairs():
    assert roofline._pairs(4, None) == 10
    assert roofline._pairs(4, 2) == 1 + 2 + 2 + 2
    assert roofline._pairs(4, 100) == 10


def test_a_slower_device_takes_longer():
    device, model = hardware("h100-80g"), anatomy("llama-3.2-1b")
    slow = replace(device, bandwidth_gb_s=device.bandwidth_gb_s / 2)
    one, two = (roofline.decode(d, model, [LAYER], 1, 10, 0).seconds for d in (device, slow))
    assert two == 2 * one
