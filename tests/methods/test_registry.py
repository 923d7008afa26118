"""Names, parameters, and the hash that a record's id holds."""

from __future__ import annotations

import re

import pytest

from kvfrontier.methods import Cached, Kivi, registry


def test_every_entry_teaches() -> None:
    entries = registry.entries()
    assert {"dense", "window", "sinks", "kivi", "snapkv", "moving_average", "recompute", "linear", "infini"} <= set(
        entries
    )
    for name, entry in entries.items():
        assert entry.summary.endswith("."), name
        assert entry.cost, name
        assert entry.tags, name
        assert entry.family in registry.FAMILIES
        assert entry.label({})
        assert entry.build({}) is not None


def test_build_reads_names_and_parameters() -> None:
    assert registry.build({"name": "kivi", "bits": 4}) == Kivi(4)
    assert registry.get("kivi").label({"bits": 4}) == "kivi4"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "windw"}, "unknown method 'windw'; did you mean 'window'?"),
        ({"name": "window", "windw": 3}, "method 'window' has no parameter 'windw'; did you mean 'window'?"),
        ({"name": "window", "window": "many"}, "method.window='many' is not of type int"),
        ({"name": "window", "window": True}, "method.window=True is not of type int"),
        ({"name": "window", "window": 0}, "set method.window to at least 1"),
        (
            {"name": "sinks", "budget": 3},
            "budget 3 leaves no token beside 4 sinks; raise method.budget or lower method.sinks",
        ),
        ({"name": "sinks", "positions": "elsewhere"}, "method.positions='elsewhere' is not of type"),
        ({"name": "snapkv", "budget": 8}, "budget 8 is smaller than the observation window 32"),
        ({"name": "kivi", "bits": 3}, "choose one of 2, 4, 8"),
        ({"name": "kivi", "residual": 100}, "not a positive multiple of the group size 32"),
        ({"name": "dense", "backend": "sdap"}, "unknown backend 'sdap'"),
        ({"window": 3}, "a method needs a name"),
    ],
)
def test_bad_parameters_say_what_to_do(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        registry.build(params)


def test_parameters_need_defaults_and_names_are_unique() -> None:
    with pytest.raises(ValueError, match="give size a default"):

        @registry.register("no_default", family="baseline", cost="none")
        def bare(size: int) -> Cached:
            """Never registered."""
            return Cached()

    with pytest.raises(ValueError, match="registered twice"):

        @registry.register("dense", family="baseline", cost="none")
        def other() -> Cached:
            """Never registered."""
            return Cached()


def test_the_hash_covers_what_a_method_imports_and_nothing_else() -> None:
    kivi, window = registry.get("kivi"), registry.get("window")
    assert kivi.source_hash() != window.source_hash()
    assert kivi.source_hash() == registry.get("kivi").source_hash()
    sources = registry._sources("kvfrontier.methods.stores.quantized")
    assert "kvfrontier.methods.cached" in sources
    assert "kvfrontier.methods.attend.eager" in sources
    assert "kvfrontier.methods.attend.sdpa" in sources
    assert "kvfrontier.methods.recurrent.linear" not in sources
