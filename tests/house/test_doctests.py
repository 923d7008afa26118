"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

#: What is imported only where their extra is installed.
OPTIONAL = {
    "kvfrontier.methods.attend.flash_attn",
    "kvfrontier.methods.attend.xformers",
    "kvfrontier.runners.harness.model",
}


@pytest.mark.parametrize("folder", ["kvfrontier.analysis", "kvfrontier.methods", "kvfrontier.runners"])
def test_the_examples_in_docstrings_hold(folder: str) -> None:
    names = [found.name for found in walk_packages(import_module(folder).__path__, f"{folder}.")]
    for name in [folder, *names]:
        if name in OPTIONAL or name.startswith("kvfrontier.runners.hydra_plugin"):
            continue
        results = doctest.testmod(import_module(name))
        assert results.failed == 0, f"{results.failed} of {results.attempted} examples in {name} fail"
