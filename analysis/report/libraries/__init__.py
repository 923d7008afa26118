"""The page's JavaScript libraries, as released, with their versions, sha256 and licences (libraries.yaml)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Library:
    """One file of one release. `path`: where it stands in the release's package."""

    file: str
    package: str
    version: str
    path: str
    license: str
    copyright: str
    sha256: str

    @property
    def text(self) -> str:
        """The file, without the line that points a debugger at a file that is not here. Raises ValueError where it is
        not the released one."""
        data = (_HERE / self.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(
                f"{self.file} is not {self.package} {self.version}: its sha256 differs; install kvfrontier again"
            )
        return re.sub(r"(//#|/\*#) sourceMappingURL=.*", "", data.decode())


@cache
def libraries() -> tuple[Library, ...]:
    """In the order in which they must be loaded."""
    return tuple(Library(**line) for line in yaml.safe_load((_HERE / "libraries.yaml").read_text()))


def notices() -> str:
    """Copyrights and licences, as they must go along with the files."""
    terms = yaml.safe_load((_HERE / "licenses.yaml").read_text())
    packages = {(one.package, one.version): one for one in libraries()}
    heads = "\n".join(f"{p} {v}, {one.license}. {one.copyright}" for (p, v), one in packages.items())
    used = dict.fromkeys(one.license for one in packages.values())
    return "\n\n".join([heads, *(f"{name}\n\n{terms[name].strip()}" for name in used)]) + "\n"
