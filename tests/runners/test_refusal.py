"""What a method cannot serve is known before it is run, with a model or from its shapes alone."""

import subprocess
import sys

import pytest

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose, refusal
from kvfrontier.runners.errors import UsageError

REASONS = {
    "window": None,
    "mla": "no latents to hold",
    "kivi2": "does not divide value head_dim 16",
    "cosformer": "longer than the 100 that this method",
    "h2o": "budget 0 keeps no token; set method.budget",
}


@pytest.fixture(scope="module")
def composer() -> compose.Composer:
    compose.register()
    return compose.Composer(["model=tiny", "model.head_dim=16", "context=384"])


def described(composer, method: str):
    settings = {"cosformer": ["method.length=100"], "h2o": ["method.budget=0"]}
    config = composer([f"method={method}", *settings.get(method, [])]).config
    return cells.describe(config, refuse=False), config["model"]


@pytest.mark.parametrize("method", REASONS)
def test_shapes_tell_what_the_model_tells(composer, method):
    cell, model = described(composer, method)
    from_shapes, (loaded,) = refusal.foresee(cell, model), cells.check([cell], model)
    assert from_shapes == loaded
    assert loaded is None if REASONS[method] is None else REASONS[method] in (loaded or "")


def test_alone_what_makes_no_method_is_a_mistake(composer):
    with pytest.raises(UsageError, match="budget 0 keeps no token"):
        cells.describe(composer(["method=h2o", "method.budget=0"]).config)


def test_answers_are_kept_until_what_decides_them_changes(composer, empty_cache, monkeypatch):
    (window, model), (mla, _) = described(composer, "window"), described(composer, "mla")
    first = refusal.foreseen([window, mla], model)
    assert first == [refusal.foresee(cell, model) for cell in (window, mla)]
    asked = []
    monkeypatch.setattr(refusal, "foresee", lambda cell, model: asked.append(cell))
    assert refusal.foreseen([mla, window, mla], model) == [first[1], first[0], first[1]]
    assert not asked
    longer = window.model_copy(update={"context": 385})
    refusal.foreseen([longer], model)
    assert asked == [longer]
    monkeypatch.setattr(refusal, "deciding", lambda: ("another transformers",))
    refusal.foreseen([window], model)
    assert asked == [longer, window]


def test_planning_loads_no_transformers():
    code = "import sys, kvfrontier.runners.sweep.run; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_setting_that_is_a_whole_float_stays_one_within_a_budget():
    compose.register()
    config = compose.Composer(["model=tiny", "context=384"])(["method=infini", "budget=60%"]).config
    cell = cells.describe(config)
    assert cell.budget is not None
    assert isinstance(cell.method["gate"], float)
