import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from kvfrontier.runners import models
from kvfrontier.runners.errors import UsageError


def load(path, **options):
    return models.load({"kind": "hf", "path": None if path is None else str(path), "device": "cpu", **options})


@pytest.fixture
def saved(tmp_path, empty_cache) -> Path:
    """A folder in the layout of save_pretrained."""
    tiny = models.load({"kind": "tiny", "device": "cpu", "max_context": 300})
    folder = tmp_path / "little-model"
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_gives_the_model_that_was_saved_in_it(saved):
    tiny, loaded = models.load({"kind": "tiny", "device": "cpu"}), load(saved)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, tiny.model(ids).logits)
    assert loaded.tokenizer.encode("x\ny") == tiny.tokenizer.encode("x\ny")
    assert (loaded.name, loaded.max_context, loaded.license) == ("little-model", 300, "not stated")
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert load(saved, dtype="bfloat16").dtype == torch.bfloat16


def test_the_license_is_the_model_cards(saved):
    (saved / "README.md").write_text("---\ntags:\n- x\nlicense: apache-2.0\n---\n# Model\n")
    assert load(saved).license == "apache-2.0"


def test_the_revision_names_the_content(saved, tmp_path):
    first = load(saved).revision
    elsewhere = tmp_path / "copy"
    shutil.copytree(saved, elsewhere)
    assert load(elsewhere).revision == first
    weights = load_file(saved / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert load(saved).revision != first
    config = elsewhere / "config.json"
    config.write_text(config.read_text().replace("10000.0", "20000.0"))
    assert load(elsewhere).revision != first


def remove(*names):
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')


def half_of_the_weights(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if "layers.1" not in k}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def weights_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("model.safetensors"), r"has no weights \(looked for \*\.safetensors"),
        (remove("config.json"), r"has no config\.json"),
        (remove("tokenizer.json", "tokenizer_config.json"), "can load"),
        (unknown_architecture, "no causal language model that transformers can load"),
        (half_of_the_weights, r"lacks 9 weights of little-model \(first model\.layers\.1\."),
        (weights_of_nothing, "no causal language model that transformers can load"),
    ],
)
def test_a_folder_that_holds_no_model_is_refused(saved, change, message):
    change(saved)
    with pytest.raises(UsageError, match=message):
        load(saved)


def test_paths_that_lead_nowhere(saved, tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(UsageError, match="is a file; give the folder"):
        load(saved / "model.safetensors")
    with pytest.raises(UsageError, match=r"needs model\.path"):
        load(None)
    with pytest.raises(UsageError, match=r"model\.revision=main is the hub's"):
        load(saved, revision="main")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """The hub's own cache, empty, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_hub_model_without_a_network_says_so(hub_cache):
    with pytest.raises(
        UsageError, match=r"model\.path=some/model: no folder here has that name, and the hub cannot be"
    ):
        load("some/model")


def test_a_hub_model_that_was_downloaded_before_needs_no_network(saved, hub_cache):
    commit = "0123456789" * 4
    there = hub_cache / "models--some--model"
    shutil.copytree(saved, there / "snapshots" / commit)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text(commit)
    loaded = load("some/model")
    assert (loaded.name, loaded.revision) == ("some/model", commit)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (errors.RepositoryNotFoundError, "no model on the hub has that name"),
        (errors.RevisionNotFoundError, r"model\.revision=v9: some/model has no such branch"),
        (errors.GatedRepoError, "some/model is gated"),
    ],
)
def test_what_the_hub_refuses_is_passed_on(answer, message, monkeypatch):
    def refuse(*_, **__):
        raise answer.__new__(answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UsageError, match=message):
        load("some/model", revision="v9")


def test_the_hubs_commit_is_what_is_downloaded(saved, tmp_path, monkeypatch):
    commit = "abc" * 13 + "d"
    shutil.copytree(saved, tmp_path / commit)
    siblings = [SimpleNamespace(rfilename="model.safetensors"), SimpleNamespace(rfilename="pytorch_model.bin")]
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"], "pytorch_model*.bin" in options["allow_patterns"]))
        return str(tmp_path / commit)

    info = SimpleNamespace(sha=commit, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load("some/model", revision="main").revision == commit
    assert asked == [("some/model", commit, False)]
