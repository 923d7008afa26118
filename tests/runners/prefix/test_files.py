"""The files of the store: whole or absent, checked, bounded, and never in the way of a result."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Dense
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.prefix.files import PrefixFiles, PrefixStoreWarning
from kvfrontier.runners.prefix.prefix import Prefixes
from kvfrontier.runners.prefix.session import PrefixSession
from kvfrontier.runners.prefix.settings import open_files, parse

TENSORS = {"k.0": torch.arange(600.0).view(2, 3, 100), "q.0": torch.arange(8).to(torch.bfloat16)}
BYTES = sum(x.nbytes for x in TENSORS.values())


def keys(files: PrefixFiles) -> list[str]:
    return [one.key for one in files.stored()]


def only(files: PrefixFiles) -> Path:
    (path,) = files.folder.glob("*.safetensors")
    return path


def test_what_is_saved_is_read_back_from_a_mapping(files: PrefixFiles) -> None:
    files.save("a", TENSORS, {"model": "tiny"})
    found = files.load("a")
    assert found is not None
    assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in TENSORS.items())
    assert files.load("b") is None
    (one,) = files.stored()
    assert (one.key, one.facts["model"]) == ("a", "tiny")
    assert one.size >= BYTES
    with open("/proc/self/maps") as maps:
        assert str(only(files)) in maps.read()


@pytest.mark.parametrize("how", ["content", "header", "cut", "empty", "moved", "garbage"])
def test_damage_is_seen_and_computed_again(how: str, files: PrefixFiles) -> None:
    files.save("a", TENSORS, {})
    path = only(files)
    data = bytearray(path.read_bytes())
    if how == "content":
        data[-1] ^= 1
    elif how == "header":
        data[20] ^= 1
    elif how == "moved":  # another prefix under this name
        path = path.rename(files.folder / "b.safetensors")
    else:
        data = {"cut": data[:-100], "empty": bytearray(), "garbage": bytearray(os.urandom(4096))}[how]
    path.write_bytes(data)
    reader = PrefixFiles(files.folder, files.limit)
    with pytest.warns(PrefixStoreWarning, match="computed again"):
        assert reader.load("b" if how == "moved" else "a") is None
    assert not path.exists()
    reader.save("a", TENSORS, {})
    assert reader.load("a") is not None


def test_damage_after_a_first_use_is_seen_too(files: PrefixFiles) -> None:
    files.save("a", TENSORS, {})
    assert files.load("a") is not None
    path = only(files)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))
    with pytest.warns(PrefixStoreWarning):
        assert files.load("a") is None


def test_the_least_recently_used_goes_first(files: PrefixFiles) -> None:
    for age, key in enumerate(("a", "b", "c")):
        files.save(key, TENSORS, {})
        os.utime(files.folder / f"{key}.safetensors", (age, age))
    size = next(files.stored()).size
    assert keys(files) == ["a", "b", "c"]
    assert files.load("a") is not None
    assert keys(files) == ["b", "c", "a"]
    small = PrefixFiles(files.folder, 3 * size + 10)
    small.save("d", TENSORS, {})
    assert set(keys(small)) == {"a", "c", "d"}
    assert sum(one.size for one in small.stored()) <= small.limit


def test_what_is_larger_than_the_store_is_not_kept(files: PrefixFiles) -> None:
    tiny = PrefixFiles(files.folder, BYTES - 1)
    with pytest.warns(PrefixStoreWarning, match="prefix_store_size"):
        tiny.save("a", TENSORS, {})
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        tiny.save("b", TENSORS, {})
    assert keys(tiny) == []


def test_the_last_of_the_disk_is_left_to_others(files: PrefixFiles, monkeypatch) -> None:
    """Records go to the same disk, perhaps."""
    files.save("a", TENSORS, {})
    free = SimpleNamespace(free=(1 << 30) + BYTES - 1)
    monkeypatch.setattr("kvfrontier.runners.prefix.files.shutil.disk_usage", lambda _: free)
    files.save("b", TENSORS, {})  # a byte too much: the older one goes
    assert keys(files) == ["b"]
    free.free = 1 << 20
    with pytest.warns(PrefixStoreWarning, match="would be free"):
        files.save("c", TENSORS, {})
    assert keys(files) == []


def test_what_a_killed_writer_left_is_never_read_and_goes_in_time(files: PrefixFiles) -> None:
    left = files.folder / ".a.1234.part"
    left.write_bytes(b"half")
    assert files.load("a") is None
    files.save("b", TENSORS, {})
    assert left.exists()  # its writer may still be at work
    os.utime(left, (0, 0))
    files.save("c", TENSORS, {})
    assert not left.exists()
    assert sorted(keys(files)) == ["b", "c"]
    assert files.clear()[0] == 2
    assert list(files.folder.iterdir()) == []


def test_a_disk_that_is_full_costs_no_result(loaded: LoadedModel, files: PrefixFiles, monkeypatch) -> None:
    """Pieces that cannot be written are used where they are."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvfrontier.runners.prefix.files.save_file", full)
    ids = torch.arange(50)[None]
    with torch.no_grad():
        with PrefixSession(loaded.model, Dense()) as s:
            expected: Tensor = s.prefill(ids, chunk=20)
        with (
            pytest.warns(PrefixStoreWarning, match="No space left"),
            PrefixSession(loaded.model, Dense(), Prefixes(loaded, files)) as s,
        ):
            assert torch.equal(s.prefill(ids, chunk=20), expected)
    assert list(files.folder.iterdir()) == []


def test_a_missing_piece_in_the_middle_is_computed_from_those_before_it(
    loaded: LoadedModel, files: PrefixFiles
) -> None:
    ids, prefixes = torch.arange(60)[None], Prefixes(loaded, files)
    with torch.no_grad(), PrefixSession(loaded.model, Dense(), prefixes) as s:
        expected = s.prefill(ids, chunk=20)
        assert prefixes.computed == 3
        middle = next(p for p in files.folder.glob("*.safetensors") if _end(files, p) == "40")
        middle.unlink()
        s.reset()
        assert torch.allclose(s.prefill(ids, chunk=20), expected, atol=1e-5)
        assert prefixes.computed == 5
        assert middle.exists()


def _end(files: PrefixFiles, path: Path) -> str:
    return next(one.facts["end"] for one in files.stored() if one.key == path.stem)


def test_settings_say_what_is_wrong(tmp_path: Path, empty_cache: Path) -> None:
    assert parse({"prefix_store": "off"}) is parse({"prefix_store": False}) is None
    assert parse({}) == (empty_cache / "prefix", 8 << 30)
    assert parse({"prefix_store": str(tmp_path), "prefix_store_size": "1500MB"}) == (tmp_path, 1_500_000_000)
    for bad in ({"prefix_store_size": "much"}, {"prefix_store_size": -1}, {"prefix_store": 7}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            parse(bad)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="prefix_store=DIR"):
        open_files({"prefix_store": str(file)})
