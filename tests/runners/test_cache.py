import os
from pathlib import Path

import pytest

from kvfrontier.runners import cache
from kvfrontier.runners.errors import UsageError


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("KVFRONTIER_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_dir() == Path("/own")
    monkeypatch.setenv("KVFRONTIER_CACHE", "~/own")
    assert cache.cache_dir() == Path.home() / "own"
    monkeypatch.delenv("KVFRONTIER_CACHE")
    assert cache.cache_dir() == Path("/xdg/kvfrontier")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.cache_dir() == Path.home() / ".cache" / "kvfrontier"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVFRONTIER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set KVFRONTIER_CACHE"), cache.locked(cache.cache_dir() / "x" / "y"):
        pass
    (tmp_path / "data").touch()
    with pytest.raises(UsageError, match="set KVFRONTIER_CACHE"):
        cache.digest(tmp_path / "data")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "target"

    def interrupted() -> None:
        with cache.whole_folder(target) as work:
            (work / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []

    with cache.whole_folder(target) as work:
        (work / "a").write_text("new")
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["target"]

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "a").read_text() == "new"


def test_what_a_dead_process_left_behind_is_cleared_away(tmp_path):
    target = tmp_path / "target"
    for left in (".target.1.part", ".target.old.part"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").touch()
    target.mkdir()
    (target / "broken").touch()
    with cache.whole_folder(target) as work:
        (work / "a").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert [p.name for p in target.iterdir()] == ["a"]


def test_a_digest_is_read_once_and_again_after_any_touch(tmp_path, empty_cache, monkeypatch):
    read = []
    monkeypatch.setattr(cache, "sha256_of", lambda path, real=cache.sha256_of: read.append(path) or real(path))
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    before = file.stat()
    first = cache.digest(file)
    assert cache.digest(file) == first
    assert len(read) == 1
    # The same size and the same time of modification: only the time of change gives it away.
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.digest(file) != first
    assert len(read) == 2


def test_a_broken_memory_of_digests_heals(tmp_path, empty_cache):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = cache.digest(file)
    (memo,) = (empty_cache / "digests").iterdir()
    for broken in (b"", b'{"state": [', b"[]"):
        memo.write_bytes(broken)
        assert cache.digest(file) == first
