"""What the tests of several files share: the embedded model, a cache of one's own, a folder of wheels."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvfrontier.runners import models
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.packages import Package


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The embedded model in float32 on the CPU, from the user's cache: downloaded once a machine."""
    return models.load({"kind": "embedded", "name": "smollm2-135m", "device": "cpu"})


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KVFRONTIER_CACHE", str(folder))
    return folder


@dataclass(frozen=True)
class Wheelhouse:
    """A folder of wheels, the only place where pip looks."""

    folder: Path

    def put(self, name: str, members: dict[str, bytes]) -> Package:
        path = self.folder / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        described = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in {**members, **described}.items():
                archive.writestr(member, content)
        content = path.read_bytes()
        return Package(f"{name}==1.0", path.name, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def wheelhouse(tmp_path, monkeypatch) -> Wheelhouse:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Wheelhouse(folder)
