"""A plan of the tiny model, and a cache of the tests' own."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.rows import Planned


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KVFRONTIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planned() -> Callable[..., Planned]:
    """One cell, of the tiny model unless the words say otherwise."""

    def one(*asked: str) -> Planned:
        (cell,) = words.read(["model=tiny", "dtype=fp32", "context=300", "chunk=64", *asked])
        return Planned(cell)

    return one


@pytest.fixture
def plan(capfd) -> Callable[..., Any]:
    """The command's rows."""

    def rows(*asked: str) -> Any:
        assert cli.main(["plan", *asked, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    return rows
