from dataclasses import asdict, fields
from importlib.resources import files

import pytest
import torch
import yaml

from kvfrontier.runners import models
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models.tiny import Tiny

CHOICES = {
    f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text())
    for f in files("kvfrontier.configs").joinpath("model").iterdir()
    if f.name.endswith(".yaml")
}


def test_each_choice_is_a_kind_with_its_parameters():
    assert {"gemma3-270m", "hf", "smollm2-135m", "tiny"} <= set(CHOICES)
    for choice, config in CHOICES.items():
        kind = models.KINDS[config.pop("kind")]
        assert config["name"] == choice
        assert set(config) <= {field.name for field in fields(kind)}


def test_the_yaml_of_tiny_shows_its_defaults():
    defaults = {k: v for k, v in asdict(Tiny()).items() if k not in ("dtype", "device")}
    assert {k: v for k, v in CHOICES["tiny"].items() if k != "kind"} == defaults


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "tine"}, "did you mean 'tiny'"),
        ({}, "there is no kind of model ''"),
        ({"kind": "tiny", "layer": 2}, "no model parameter 'layer'; did you mean 'layers'"),
        ({"kind": "tiny", "layers": "many"}, r"model\.layers='many'"),
        ({"kind": "tiny", "layers": 0}, r"model\.layers=0: at least 1"),
        ({"kind": "tiny", "heads": 4, "kv_heads": 3}, r"model\.kv_heads=3 does not divide model\.heads=4"),
        ({"kind": "tiny", "head_dim": 15}, "must be even"),
        ({"kind": "tiny", "dtype": "float23"}, "did you mean 'float32'"),
        ({"kind": "tiny", "dtype": "int4"}, "there is no dtype 'int4'"),
        ({"kind": "tiny", "device": "gpu"}, "there is no device 'gpu'"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(config, message):
    with pytest.raises(UsageError, match=message):
        models.load(config)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=rf"finds no device '{device}' here"):
        models.load({"kind": "tiny", "device": device})
    assert models.load({"kind": "tiny", "device": "auto"}).device.type == "cpu"
