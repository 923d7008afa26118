"""What is not run again would have peaked as it did: shorter runs against whole ones."""

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import compose
from kvfrontier.runners.plan import peaks as predicted
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.plan.shorter import fewer_chunks


def run_of(method, prompt=512, chunk=64, layers=7, **settings):
    compose.register()
    params = registry.complete({**compose.choice("method", method), **settings})
    return Run({"kind": "tiny", "dtype": "bfloat16", "layers": layers}, params, 1, prompt, 2, chunk)


def few(run):
    return predicted._of_few_layers(run, registry.build(run.method), predicted._layers(run))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dense", {}),
        ("kivi2", {"residual": 32, "group": 16}),
        ("linear", {}),
        pytest.param("window", {}, marks=pytest.mark.slow),
        pytest.param("duo", {"window": 24}, marks=pytest.mark.slow),
    ],
)
def test_seven_like_layers_peak_as_three_of_them_foretell(method, settings):
    run = run_of(method, **settings)
    assert few(run) == predicted._watch(run, registry.build(run.method), False)


@pytest.mark.parametrize(("method", "settings"), [("pyramidkv", {"budget": 64}), ("cla", {})])
def test_layers_that_differ_are_all_run(method, settings):
    assert few(run_of(method, **settings)) is None


@pytest.mark.parametrize("prompt", [pytest.param(512, marks=pytest.mark.slow), 540])
@pytest.mark.parametrize("method", ["window", "h2o", "linear", "moving_average"])
def test_chunks_in_which_nothing_changes_are_run_once(method, prompt):
    settings = {"window": {"window": 40}, "h2o": {"budget": 64, "block": 16}}.get(method, {})
    run = run_of(method, prompt, layers=2, **settings)
    method = registry.build(run.method)
    shorter = fewer_chunks(run, method, predicted._layers(run))
    assert shorter.prompt <= prompt - 2 * 64
    assert predicted._watch(shorter, method, False) == predicted._watch(run, method, False)


def test_a_text_that_grows_is_read_whole():
    run = run_of("dense")
    assert fewer_chunks(run, registry.build(run.method), predicted._layers(run)) == run
