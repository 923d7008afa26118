"""A tiny model, and a prefix store of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvfrontier.runners import models
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.prefix.files import PrefixFiles


@pytest.fixture(scope="package")
def loaded() -> LoadedModel:
    return models.load({"kind": "tiny", "device": "cpu"})


@pytest.fixture
def files(tmp_path: Path) -> PrefixFiles:
    folder = tmp_path / "prefix"
    folder.mkdir()
    return PrefixFiles(folder, 1 << 30)
