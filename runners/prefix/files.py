"""Files of tensors under a content address: what is stored, what is read back, and what is dropped.

A file appears by a rename, so that it is there whole or not at all, on a shared file system too; it is never written
again, and may be mapped by many processes. Nothing is locked: two writers of one address have the same to write. Nor is
anything waited for on its way to the disk: what a crash leaves half written fails its checksum, and is computed again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_SUFFIX, _PART = ".safetensors", ".part"
#: Seconds after which an unfinished file was left by a process that died.
_STALE = 3600
#: Bytes of the disk that are left to others, records among them.
_OTHERS = 1 << 30


class PrefixStoreWarning(UserWarning):
    """Something is amiss with the store; results are right without it."""


@dataclass(frozen=True)
class Stored:
    """A file of the store: its address, bytes, when it was last used (seconds since the epoch), and what was said of it
    when it was saved."""

    key: str
    size: int
    used: float
    facts: Mapping[str, str]


class PrefixFiles:
    """Tensors by address in `folder`, together at most `limit` bytes; the least recently used go first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        #: Files that have passed their check in this process, and may be mapped without reading all of them.
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._full = False

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under an address, mapped into memory, or None. A file that is damaged is removed, with a
        PrefixStoreWarning."""
        path = self._path(key)
        try:
            stat = path.stat()
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            if self._checked.get(key) != _state(stat) and not _whole(key, said, tensors):
                raise SafetensorError("its checksum is another")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            self._remove(path)
            warnings.warn(
                f"the stored prefix {path} is damaged ({error}) and is computed again", PrefixStoreWarning, stacklevel=2
            )
            return None
        # A file is never written again, and its time of modification free to be that of its use: file systems keep no
        # time of access that could be relied on.
        with suppress(OSError):
            os.utime(path)
            stat = path.stat()
        self._checked[key] = _state(stat)
        return tensors

    def save(self, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Store tensors of the CPU under an address; `facts` is shown by `stored`. Where there is no room, a warning
        says so, once, and nothing is stored."""
        size = sum(x.nbytes for x in tensors.values())
        if size > self.limit:
            return self._say_full(f"{size:,} bytes are more than prefix_store_size, {self.limit:,}")
        if not self._make_room(size):
            return self._say_full(f"less than {_OTHERS >> 20} MiB of the disk would be free")
        part = self.folder / f".{key[:16]}.{uuid.uuid4().hex}{_PART}"
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            save_file(dict(tensors), part, {**facts, "key": key, "sha256": _digest(tensors)})
            part.replace(self._path(key))
        except (OSError, SafetensorError) as error:
            self._say_full(str(error))
        finally:
            self._remove(part)

    def stored(self) -> Iterator[Stored]:
        """What is there, the least recently used first."""
        for used, size, path in sorted(self._sizes()):
            facts: Mapping[str, str] = {}
            with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
            yield Stored(path.name.removesuffix(_SUFFIX), size, used, facts)

    def clear(self) -> tuple[int, int]:
        """Remove everything; returns how many files and bytes that were."""
        found = list(self._sizes())
        for _, _, path in found:
            self._remove(path)
        self._sweep(older_than=0)
        return len(found), sum(size for _, size, _ in found)

    def _path(self, key: str) -> Path:
        return self.folder / (key + _SUFFIX)

    def _sizes(self) -> Iterator[tuple[float, int, Path]]:
        """Time of use, bytes and path of every file."""
        for path in self.folder.glob(f"[!.]*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path

    def _make_room(self, size: int) -> bool:
        """Drop what must go for `size` bytes; whether there is room then."""
        self._sweep(_STALE)
        found = sorted(self._sizes())
        excess = sum(held for _, held, _ in found) + size - self.limit
        excess = max(excess, size + _OTHERS - shutil.disk_usage(self.folder).free)
        for _, held, path in found:
            if excess <= 0:
                break
            self._remove(path)
            excess -= held
        return excess <= 0

    def _sweep(self, older_than: float) -> None:
        """Remove what was never finished."""
        for path in self.folder.glob(f".*{_PART}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= older_than:
                    self._remove(path)

    def _remove(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _say_full(self, why: str) -> None:
        if not self._full:
            self._full = True
            warnings.warn(
                f"nothing more is kept in the prefix store {self.folder}: {why}; free some space, raise "
                "prefix_store_size, or set prefix_store=DIR or off",
                PrefixStoreWarning,
                stacklevel=3,
            )


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file does."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _whole(key: str, said: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds what was saved under this address."""
    return said.get("key") == key and said.get("sha256") == _digest(tensors)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
