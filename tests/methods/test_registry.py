"""Names, parameters, and the hash that a record's id holds."""

from __future__ import annotations

import re

import pytest

from kvfrontier.methods import Cached, Dense, Kivi, Layer, Layers, PerLayer, registry


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
        ({"name": "cached", "store": "densee"}, "unknown store 'densee'; did you mean 'dense'?"),
        ({"name": "cached", "store": {"name": "dense", "bits": 2}}, "store 'dense' has no parameter 'bits'"),
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
    kivi, window = (registry.source_hash({"name": name}) for name in ("kivi", "window"))
    assert kivi != window
    assert kivi == registry.source_hash({"name": "kivi", "bits": 4})
    sources = registry._sources(["kvfrontier.methods.stores.quantized"])
    assert "kvfrontier.methods.cached" in sources
    assert "kvfrontier.methods.attend.eager" in sources
    assert "kvfrontier.methods.attend.sdpa" in sources
    assert "kvfrontier.methods.recurrent.linear" not in sources


def test_the_hash_of_a_composition_covers_its_axes_and_layers() -> None:
    plain, other = {"name": "cached"}, {"name": "cached", "layers": {"0": "linear"}}
    assert registry.source_hash(plain) != registry.source_hash(other)
    assert "kvfrontier.methods.recurrent.linear" in registry._modules(other)


def test_axes_are_composed_by_name_and_filled_in() -> None:
    params = {"name": "cached", "store": "dense", "backend": "eager"}
    assert registry.build(params) == Cached(backend="eager")
    filled = registry.complete(params)
    assert filled == {
        "name": "cached", "selection": {"name": "all"}, "store": {"name": "dense"}, "memory": {"name": "dropped"},
        "positions": {"name": "original"}, "backend": "eager",
    }  # fmt: skip
    assert registry.complete(filled) == filled
    assert registry.build(filled) == registry.build(params)
    assert registry.label(filled) == "cached"


def test_other_layers_may_have_other_methods() -> None:
    params = {"name": "window", "window": 8, "layers": {"0-1": "dense", "-1": {"name": "kivi", "bits": 4}}}
    method = registry.build(params)
    assert isinstance(method, PerLayer)
    at = [method.at(Layer(i, 4, 4, 2, 32, 32, 1.0)) for i in range(4)]
    assert at == [Cached(), Cached(), method.default, Kivi(4)]
    assert registry.label(params) == "window[0-1: dense, -1: kivi4]"
    assert registry.build({**params, "layers": {"default": "dense"}}) == PerLayer(Cached(), ())
    assert registry.complete(params)["layers"]["-1"]["group"] == 32


@pytest.mark.parametrize(
    ("spec", "found"), [("3", [3]), ("0-2", [0, 1, 2]), ("-1", [7]), ("/4", [0, 4]), ("2-7/3", [2, 5])]
)
def test_layers_are_named_by_index_range_and_step(spec: str, found: list[int]) -> None:
    assert list(Layers(spec).of(8)) == found


def test_layers_that_name_none_say_how_to_name_some() -> None:
    for spec in ("first", "", "3-", "/0", "1:4"):
        with pytest.raises(ValueError, match="write an index"):
            Layers(spec)
    with pytest.raises(ValueError, match="cannot serve single layers"):
        registry.build({"name": "window", "layers": {"0": "recompute"}})


def test_a_choice_is_called_by_the_name_that_a_person_types():
    for axis in registry.AXES:
        for name in set(registry.components(axis)) - {"kivi"}:  # which is `quantized` at these settings
            assert registry.called(registry.build_component(axis, name)) == f"{axis} {name!r}"
    assert registry.called(registry.build({"name": "gist"})) == "method 'gist'"


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"name": "h2o", "budget": 0}, r"set method\.budget "),
        ({"name": "cached", "selection": {"name": "h2o", "budget": 0}}, r"set method\.selection\.budget "),
        ({"name": "dense", "layers": {"0-1": {"name": "h2o", "budget": 0}}}, r"set method\.layers\.0-1\.budget "),
    ],
)
def test_a_refusal_names_a_parameter_where_the_configuration_has_it(params, path):
    with pytest.raises(ValueError, match=path):
        registry.build(params)


def test_a_description_is_filled_without_being_built():
    beyond = {"name": "h2o", "budget": 0}
    assert registry.fill(beyond) == {**registry.complete({"name": "h2o"}), "budget": 0}
    for wrong in ({"name": "h2o", "bugdet": 1}, {"name": "h2o", "budget": "wide"}, {"name": "h20"}):
        with pytest.raises(ValueError, match=r"parameter 'bugdet'|not of type int|unknown method"):
            registry.fill(wrong)


def test_what_holds_all_and_reads_less_says_that_it_saves_time_only():
    """Of methods that keep a text's keys and values and choose what to read of them, on the device."""
    layer, n = Layer(0, 4, 8, 2, 64, 64, 0.125), 16_384
    dense = Dense().footprint(layer, 1, n).held.payload
    for name, entry in registry.entries().items():
        if entry.family in ("patterns", "retrieval"):
            held = registry.build({"name": name}).at(layer).footprint(layer, 1, n).held
            assert ("saves time, not memory" in entry.tags) == (held.payload - held.host >= dense), name
