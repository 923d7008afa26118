"""The user's cache: where it is, one writer at a time, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from kvfrontier.runners.errors import UsageError

_BLOCK = 1 << 20


def cache_dir() -> Path:
    """$KVFRONTIER_CACHE, else $XDG_CACHE_HOME/kvfrontier, else ~/.cache/kvfrontier. It need not exist yet."""
    if own := os.environ.get("KVFRONTIER_CACHE"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    home = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return home / "kvfrontier"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the right to write `target`, a path in the cache, among all processes. Its folder is made.

    Raises UsageError where the cache cannot be written.
    """
    with _says_where_the_cache_is():
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` when the block ends, and goes when it fails.

    Whatever the moment of a crash, `target` is absent, as it was, or complete. Call it under `locked(target)`.
    """
    # The lock is ours, so what lies here was left by a process that died.
    for left in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(left)
    work = target.with_name(f".{target.name}.{os.getpid()}.part")
    work.mkdir()
    try:
        yield work
        for path in (*work.rglob("*"), work):
            _sync(path)
        if target.exists():
            # Aside first: a crash halfway through the deletion must not leave half a folder under the real name.
            old = target.with_name(f".{target.name}.old.part")
            target.rename(old)
            shutil.rmtree(old)
        work.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex, read in full."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest(path: Path) -> str:
    """The file's sha256 in hex, remembered in the cache for as long as the file is not touched.

    Reading half a gigabyte takes 2 s, and each load asks. Size, inode, time of modification and time of change must
    all be as they were.
    """
    path = path.resolve()
    stat = path.stat()
    # Change times tick every few milliseconds: the key says which file, the content which state of it.
    state = [str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    memo = cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with _says_where_the_cache_is():
        known = read_json(memo)
    if known.get("state") == state:
        return known["sha256"]
    value = sha256_of(path)
    with _says_where_the_cache_is():
        write_whole(memo, json.dumps({"state": state, "sha256": value}).encode())
    return value


def read_json(path: Path) -> dict:
    """The object that the file holds; an empty one where it is absent or not whole, so that it is written anew."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _says_where_the_cache_is() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot use the cache {cache_dir()} ({error.strerror}); set KVFRONTIER_CACHE to a folder of yours"
        ) from error


def write_whole(target: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all. It takes no lock: two writers have the same to write."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with work.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        work.replace(target)
    finally:
        work.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
