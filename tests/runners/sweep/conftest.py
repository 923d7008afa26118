"""Cells for the tests of sweeps."""

from __future__ import annotations

import pytest

from kvfrontier.runners import compose
from kvfrontier.runners.cell import describe
from tests.runners.sweep.processes import TINY


@pytest.fixture
def tiny_cell():
    """A cell that is described, and its configuration: of a method, with further overrides."""
    compose.register()

    def make(*words: str):
        config = compose.Composer(TINY)(list(words)).config
        for key in ("cells", "sweep"):
            del config[key]
        return describe(config), config

    return make
