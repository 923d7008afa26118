"""Every configuration composes."""

import itertools
from importlib.resources import files

import pytest
import yaml

from kvfrontier.methods import Cached, registry
from kvfrontier.runners import cell, compose, tasks

GROUPS = ("method", "model", "task", "tracker")


@pytest.fixture(scope="module")
def composer():
    compose.register()
    return compose.Composer()


def names(group):
    compose.register()
    return compose.names(group)


@pytest.mark.parametrize("choice", [(group, name) for group in GROUPS for name in names(group)], ids="=".join)
def test_every_choice_composes(composer, choice):
    group, name = choice
    composed = composer([f"{group}={name}"])
    assert composed.choices[group] == name
    assert composed.config[group]["name"]


PAIRS = [*itertools.product(names("method"), ["needle"]), *itertools.product(["dense"], names("task"))]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_method_and_every_task_describes_a_cell(composer, pair):
    method, task = pair
    described = cell.describe(composer([f"method={method}", f"task={task}"]).config)
    assert registry.build(described.method)
    assert tasks.make({k: v for k, v in described.task.items() if k != "version"})


def test_a_yaml_repeats_no_default():
    for name, parameters in compose.choices("method").items():
        file = files("kvfrontier.configs").joinpath("method", f"{name}.yaml")
        own = yaml.safe_load(file.read_text()) if file.is_file() else {}
        own.pop("defaults", None)
        entry = registry.get(parameters["name"])
        assert all(entry.parameters[key] != value for key, value in own.items())


def test_every_registered_name_has_a_choice():
    assert set(registry.entries()) <= set(names("method"))
    assert set(tasks.names()) <= set(names("task"))


def test_a_changed_value_composes_as_hydra_would(composer):
    quick = composer(["method=kivi4", "method.group=16", "context=77"])
    whole = compose.Composer(["method=kivi4", "method.group=16", "context=77"])()
    assert quick == whole


@pytest.mark.parametrize("sweep", names("sweep"))
def test_every_sweep_plans(sweep, capfd):
    from kvfrontier.runners import cli

    assert cli.main(["run", f"+sweep={sweep}", "--dry-run", "results=nowhere"]) == 0


def test_the_quickstart_has_fourteen_rows_over_three_contexts(capfd):
    import json

    from kvfrontier.runners import cli

    cli.main(["run", "+sweep=quickstart", "--dry-run", "--json", "results=nowhere"])
    cells = json.loads(capfd.readouterr().out)["cells"]
    assert len({(json.dumps(c["method"]), c["task"].get("compress_at") == "prompt") for c in cells}) == 14
    assert {c["context"] for c in cells} == {512, 1024, 2048}
    assert {c["context"] for c in cells if c["task"]["name"] == "needle"} == {1024}


@pytest.mark.parametrize(
    ("fixed", "axes"),
    [
        (
            ["method.layers={0: kivi4}", "context=9"],
            [["method=window", "method=cached", "method=sinks"], ["seed=1", "seed=2"]],
        ),
        (["method=cached"], [["method/store=dense", "method/store=kivi4"], ["task=needle", "task=perplexity"]]),
        (["+sweep=smoke", "method.window=8"], [["method=window", "method=sinks"], ["model=tiny", "model=phi-4"]]),
    ],
)
def test_the_cells_of_a_sweep_compose_as_hydra_would(fixed, axes):
    """Nodes are taken from their choices alone where that gives the same."""
    composer = compose.Composer(fixed)
    composer.prepare(o for axis in axes for o in axis)
    for chosen in itertools.product(*axes):
        assert composer(chosen) == compose.Composer([*fixed, *chosen])()


def test_a_choice_that_reaches_beyond_its_group_reaches_the_whole_cell(tmp_path):
    folder = tmp_path / "method"
    folder.mkdir()
    (folder / "far.yaml").write_text("# @package _global_\nmethod: {name: window, window: 5, layers: null}\nmore: 7\n")
    (folder / "near.yaml").write_text("name: window\nwindow: ${seed}\nlayers: null\n")
    for first in ("dense", "far", "near"):
        composer = compose.Composer(search=[f"file://{tmp_path}"])
        composer.prepare(["method=near", "method=far", "method=dense"])
        composer([f"method={first}"])
        dense, far, near = (composer([f"method={name}", "seed=3"]).config for name in ("dense", "far", "near"))
        assert (near["method"]["window"], far["method"]["window"]) == (3, 5)
        assert (dense.get("more"), far.get("more"), near.get("more")) == (None, 7, None)


def test_a_value_of_one_cell_does_not_reach_another():
    composer = compose.Composer(["method=kivi4"])
    assert composer(["context=77"]).config["context"] == 77
    assert composer(["seed=3"]).config["context"] == compose.Composer()().config["context"]


def test_the_zoo_leaves_no_method_out():
    zoo = yaml.safe_load(files("kvfrontier.configs").joinpath("sweep", "zoo.yaml").read_text())
    swept = set(zoo["hydra"]["sweeper"]["params"]["method"])
    # Those of latents need a model that caches them; `cached` is dense until an axis is chosen; a small one stands in
    # the default sweep.
    assert set(names("method")) - swept == {
        "cached", "mla", "mla_expanded", "mla_quantized", "kivi", "quantized", "compressive_small",
    } & set(names("method"))  # fmt: skip
    assert swept <= set(names("method"))


def test_a_choice_of_an_axis_composes_under_its_axis(composer):
    for axis in registry.AXES:
        for name in names(f"method/{axis}"):
            chosen = composer(["method=cached", f"method/{axis}={name}"]).config["method"][axis]
            built = registry.build_component(axis, chosen)
            if name in registry.components(axis):
                assert built == registry.build_component(axis, name)


def test_a_preset_of_a_store_serves_a_composition(composer):
    chosen = ["method=cached", "method/selection=snapkv", "method/store=kivi4", "method/memory=moving_average"]
    method = registry.build(composer(chosen).config["method"])
    assert isinstance(method, Cached)
    assert method.store == registry.build_component("store", {"name": "kivi", "bits": 4})
