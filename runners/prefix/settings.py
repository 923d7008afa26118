"""What `prefix_store=` and `prefix_store_size=` ask for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from kvfrontier.runners.cache import cache_dir
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import check_writable

if TYPE_CHECKING:
    from kvfrontier.runners.prefix.files import PrefixFiles

#: Of configurations that do not say (records of earlier versions), and of the command line.
SIZE = "8GiB"


def default_folder() -> Path:
    """Where prefixes are kept unless a folder is named: in the user's cache."""
    return cache_dir() / "prefix"


def parse(config: Mapping[str, Any]) -> tuple[Path, int] | None:
    """Folder and size in bytes, or None where no store is wanted. Raises UsageError for what is neither."""
    chosen = config.get("prefix_store", "auto")
    size = config.get("prefix_store_size", SIZE)
    try:
        limit = int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        limit = 0
    if limit <= 0:
        raise UsageError(f"prefix_store_size={size!r} is no amount of memory; write 8GiB, or prefix_store=off for none")
    if chosen in ("off", False):  # YAML reads off as a truth value
        return None
    if chosen == "auto":
        return default_folder(), limit
    if not isinstance(chosen, str) or not chosen:
        raise UsageError(f"prefix_store={chosen!r}: name a folder, or write auto (the user's cache) or off")
    return Path(chosen).expanduser(), limit


def open_files(config: Mapping[str, Any]) -> PrefixFiles | None:
    """The store that a configuration asks for. Raises UsageError where its folder cannot be written."""
    found = parse(config)
    if found is None:
        return None
    folder, limit = found
    return _files(check_writable(folder, "prefix_store=DIR"), limit)


@cache
def _files(folder: Path, limit: int) -> PrefixFiles:
    """One for the cells of a process, which then check each file once."""
    from kvfrontier.runners.prefix.files import PrefixFiles

    return PrefixFiles(folder, limit)
