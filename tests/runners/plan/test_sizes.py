"""The planner's reference cases: bytes of state a token, as published or as the definitions give them."""

import pytest
import torch

from kvfrontier.methods import registry
from kvfrontier.runners import compose, models
from kvfrontier.runners.plan.sizes import footprint, most_held

GIB = 1 << 30
COLUMNS = {
    "bf16": {"name": "dense"},
    "int8 g64 symmetric": {"bits": 8, "group": 64, "symmetric": True},
    "int4 g64": {"bits": 4, "group": 64},
    "int4 g32": {"bits": 4, "group": 32},
    "int2 g32": {"bits": 2, "group": 32},
}
#: Bytes a token in these columns.
TABLE = {
    "smollm2-135m": (23_040, 11_880, 6_480, 7_200, 4_320),
    "qwen2.5-7b": (57_344, 29_568, 16_128, 17_920, 10_752),
    "mistral-7b": (131_072, 67_584, 36_864, 40_960, 24_576),
    "llama-3-8b": (131_072, 67_584, 36_864, 40_960, 24_576),
    "llama-3-70b": (327_680, 168_960, 92_160, 102_400, 61_440),
    "llama-3.1-405b": (516_096, 266_112, 145_152, 161_280, 96_768),
    "llama-2-7b": (524_288, 270_336, 147_456, 163_840, 98_304),
    "opt-13b": (819_200, 422_400, 230_400, 256_000, 153_600),
}
AT_128K = {
    "qwen2.5-7b": 7, "mistral-7b": 16, "llama-3-8b": 16, "llama-3-70b": 40, "llama-3.1-405b": 63, "llama-2-7b": 64,
    "opt-13b": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def layers():
    """The attention layers of a shipped model in bfloat16."""
    compose.register()
    known = {}

    def of(name):
        if name not in known:
            known[name] = [layer.at(torch.bfloat16) for layer in models.layers(compose.choice("model", name))]
        return known[name]

    return of


def method(column):
    params = COLUMNS[column]
    quantized = {"name": "quantized", "residual": 0, "key_axis": "token", "value_axis": "token"}
    return registry.build(params if "name" in params else {**quantized, **params})


@pytest.mark.parametrize("tokens", [1, 1024, 131_072])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("model", TABLE)
def test_the_state_is_the_tables_to_the_byte(layers, model, column, tokens):
    held = footprint(method(column), layers(model), 1, tokens).held
    assert held.payload == TABLE[model][list(COLUMNS).index(column)] * tokens


@pytest.mark.parametrize("model", AT_128K)
def test_dense_state_at_131072_tokens_is_the_tables(layers, model):
    held = footprint(method("bf16"), layers(model), 1, 131_072).held
    assert held.live == AT_128K[model] * GIB


DEEPSEEK = {
    "bf16": ({"name": "mla"}, 70_272),
    "int8 g64 symmetric": ({"name": "mla_quantized", "bits": 8, "symmetric": True}, 36_234),
    "int4 g64": ({"name": "mla_quantized", "bits": 4}, 19_764),
    "int4 g32": ({"name": "mla_quantized", "bits": 4, "group": 32}, 21_960),
    "int2 g32": ({"name": "mla_quantized", "bits": 2, "group": 32}, 13_176),
}


@pytest.mark.parametrize("tokens", [1, 1024, 131_072])
@pytest.mark.parametrize("column", COLUMNS)
def test_deepseeks_latents_are_the_tables_to_the_byte(layers, column, tokens):
    params, bytes_a_token = DEEPSEEK[column]
    held = footprint(registry.build(params), layers("deepseek-v3"), 1, tokens).held
    assert held.payload == bytes_a_token * tokens


def test_32_requests_of_500_tokens_hold_what_one_of_16000_does(layers):
    many = footprint(method("bf16"), layers("llama-3-8b"), 32, 500).held
    one = footprint(method("bf16"), layers("llama-3-8b"), 1, 16_000).held
    assert many.payload == one.payload


def test_the_models_own_windows_hold_their_window(layers):
    held = footprint(method("bf16"), layers("gpt-oss-20b"), 1, 10_000).held
    assert held.payload == 12 * (10_000 + 128) * 2 * 8 * 64 * 2


def test_a_method_that_compresses_at_seal_holds_most_before_it(layers):
    snapkv = registry.build({"name": "snapkv"})
    dense = footprint(method("bf16"), layers("llama-3-8b"), 1, 4096).held.live
    assert most_held(snapkv, layers("llama-3-8b"), 1, 4096, 1) >= dense
    assert footprint(snapkv, layers("llama-3-8b"), 1, 4096, 1).held.live < dense / 4
