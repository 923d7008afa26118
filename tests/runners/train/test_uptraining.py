"""A method takes dense attention's place in a model that knows no other: what is lost and what comes back."""

import sys
from typing import Any

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import cli
from kvfrontier.runners.record import load_records
from kvfrontier.runners.train.begin import beginning
from kvfrontier.runners.train.plan import plan
from kvfrontier.runners.train.trainer import Trainer

TEXT = [
    "task=text", "task.near=4", "task.examples=4", "task.train=[{length: 24, examples: 512}]",
    "task.test=[{length: 24}]", "train.batch=16", "train.valid=8", "meter.repetitions=0", "tracker=none",
]  # fmt: skip
SMALL = ["model=llama", "model.width=32", "model.mlp=64", "begins=dense", "train.before=30", "train.lr=[0.005]"]


@pytest.mark.slow
def test_the_record_holds_dense_before_and_after(tmp_path, capfd):
    words = [*TEXT, *SMALL, "method=retnet", "train.steps=20", "train.every=10"]
    assert cli.main(["train", *words, f"results={tmp_path}"]) == 0, capfd.readouterr().err
    record: Any = load_records(tmp_path)[-1]
    training = record.training
    (one,) = plan([*words, f"results={tmp_path / 'again'}"])
    make, reference = beginning(one, tmp_path / "again")
    unlike = Trainer(make(), registry.build(one.method), one.task, one.settings, 0.01, 0)
    assert [point["step"] for point in training.curve] == [0, 10, 20]
    assert training.reference == pytest.approx(reference)
    assert training.curve[0]["valid_loss"] == pytest.approx(unlike.validated())
    assert training.curve[-1]["valid_loss"] < training.curve[0]["valid_loss"]
    assert record.cell.training["begins"] == "dense"


def test_all_methods_of_a_sweep_begin_from_the_same_weights(tmp_path):
    words = [*TEXT, *SMALL, "train.before=2", "train.steps=1", f"results={tmp_path}", "method=window,gqa"]
    begun = [beginning(one, tmp_path / "checkpoints") for one in plan(words)]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    first, second = (make().state_dict() for make, _ in begun)
    assert all(first[name].equal(second[name]) for name in first)
    assert begun[0][1] == begun[1][1]


def test_a_method_that_changes_nothing_begins_where_dense_ends(tmp_path):
    (one,) = plan([*TEXT, *SMALL, "train.before=2", "train.steps=1", "method=window", "method.window=24"])
    from kvfrontier.runners.train.build import method_of

    make, reference = beginning(one, tmp_path)
    method = method_of(one.method, one.config["model"])
    trainer = Trainer(make(), method, one.task, one.settings, 0.01, 0, from_weights=True)
    assert trainer.validated() == pytest.approx(reference, abs=1e-5)


def test_pretrained_weights_need_a_model_that_has_some(tmp_path, capfd):
    assert cli.main(["train", *TEXT, "begins=pretrained", f"results={tmp_path}"]) == 2
    assert "begins=pretrained" in capfd.readouterr().err


@pytest.mark.slow
def test_a_pretrained_model_goes_on_in_its_own_tokens(tmp_path, capfd):
    words = [
        *TEXT,
        "model=tiny",
        "begins=pretrained",
        "method=gqa",
        "train.steps=2",
        "train.lr=[0.001]",
        "train.every=1",
    ]
    assert cli.main(["train", *words, f"results={tmp_path}"]) == 0, capfd.readouterr().err
    record: Any = load_records(tmp_path)[-1]
    assert record.cell.task["tokenizer"]["name"] == "tiny"
    assert record.training.curve[-1]["valid_loss"] < record.training.curve[0]["valid_loss"]


def test_adapters_need_peft_and_say_so(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    words = [*TEXT, *SMALL, "train.before=1", "train.steps=1", "method=window", "train.lora=2"]
    assert cli.main(["train", *words, f"results={tmp_path}"]) == 2
    assert "kvfrontier[peft]" in capfd.readouterr().err


def test_adapters_are_for_weights_that_were_trained(tmp_path, capfd):
    assert cli.main(["train", *TEXT, "train.lora=2", f"results={tmp_path}"]) == 2
    assert "begins=dense" in capfd.readouterr().err


@pytest.mark.slow
def test_adapters_alone_are_trained(tmp_path):
    pytest.importorskip("peft")
    words = [*TEXT, *SMALL, "train.before=2", "train.steps=2", "train.lora=2", f"results={tmp_path}", "method=gqa"]
    (one,) = plan(words)
    make, _ = beginning(one, tmp_path)
    trainer = Trainer(make(), registry.build(one.method), one.task, one.settings, 0.01, 0)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not tensor.equal(before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
