"""The architectures that ship: enough to plan with, and those of the models that they name."""

import json
from importlib.resources import files
from math import prod

import pytest
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from kvfrontier.runners import cell, models
from kvfrontier.runners.errors import UsageError

SHIPPED = {
    f.name.removesuffix(".yaml"): config
    for f in files("kvfrontier.configs").joinpath("model").iterdir()
    if f.name.endswith(".yaml") and "architecture" in (config := yaml.safe_load(f.read_text()))
}

#: Parameters as the models' cards count them (safetensors; tied ones once).
PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "gemma3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "phi-4": 14_659_507_200,
    "gpt-oss-20b": 20_914_757_184,
    "opt-13b": 12_853_473_280,
    "deepseek-v3": 671_026_419_200 - 58 * 256,  # the routers' biases are buffers here
}


def parameters(config):
    with FakeTensorMode():
        model = models.skeleton(config)
        return sum(prod(p.shape) for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_architecture_has_as_many_parameters_as_its_card_says(name):
    assert parameters(SHIPPED[name]) == PUBLISHED[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_architecture_gives_its_layers_without_a_network(name, empty_cache):
    layers = models.layers(SHIPPED[name])
    assert layers
    assert not empty_cache.exists()


def test_at_least_sixteen_well_known_models_ship():
    assert len(SHIPPED) >= 16


def test_a_config_json_is_enough_to_plan(tmp_path):
    shipped = dict(SHIPPED["llama-3.2-1b"]["architecture"])
    (tmp_path / "config.json").write_text(json.dumps(shipped))
    for path in (tmp_path, tmp_path / "config.json"):
        assert models.layers({"kind": "hf", "path": str(path)}) == models.layers(SHIPPED["llama-3.2-1b"])


def test_a_shipped_architecture_is_no_part_of_a_records_name():
    assert cell.model_name(SHIPPED["qwen3-8b"]) == "qwen3-8b(path=Qwen/Qwen3-8B)"


def test_an_architecture_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"model\.architecture is none that transformers knows"):
        models.layers({"kind": "hf", "architecture": {"model_type": "lama"}})
