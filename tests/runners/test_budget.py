"""Budgets: what an amount means, and that the knob that is solved is the largest that fits."""

from __future__ import annotations

from typing import Any

import pytest

from kvfrontier.methods import Layer, registry
from kvfrontier.runners.budget import SIXTEEN_BITS, _with, dense_payload, payload, solve
from kvfrontier.runners.errors import UsageError

#: Three layers of 2 heads of 32, the second with a window of the model's own. A token is 256 bytes a layer.
LAYERS = tuple(Layer(i, 3, 4, 2, 32, 32, 0.2, window=64 if i == 1 else None) for i in range(3))
FULL = LAYERS[:1]
TOKEN = 2 * 2 * 32 * 2


def solved(asked: str, params: dict[str, Any], layers=FULL, batch: int = 1, prompt: int = 1000):
    return solve(asked, registry.complete(params), layers, batch, prompt)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [
        ("100", 100 * TOKEN), ("5000", 1000 * TOKEN), ("25%", 250 * TOKEN), ("12.5 %", 125 * TOKEN),
        ("100%", 1000 * TOKEN), ("64KiB", 2**16), ("1.5kB", 1500), ("2 MiB", 2**21), ("1GB", 10**9),
    ],
)  # fmt: skip
def test_an_amount_is_tokens_a_share_of_dense_or_bytes(asked: str, limit: int) -> None:
    assert solved(asked, {"name": "window"}).limit == limit


@pytest.mark.parametrize("asked", ["many", "25 %%", "1.5", "3 parsecs", "-5", "0", "0%", "101%", ""])
def test_what_is_no_amount_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="budget="):
        solved(asked, {"name": "window"})


def test_layers_that_the_model_windows_take_their_part_of_the_budget() -> None:
    assert dense_payload(LAYERS, 1, 1000) == (1000 + 64 + 1000) * TOKEN
    found = solved("50%", {"name": "window"}, LAYERS)
    assert found.limit == 1032 * TOKEN
    assert found.value == (1032 - 64) // 2
    assert found.got == (2 * found.value + 64) * TOKEN


@pytest.mark.parametrize(
    ("params", "knob"),
    [
        ({"name": "window"}, "window"), ({"name": "sinks"}, "window"), ({"name": "snapkv"}, "budget"),
        ({"name": "kivi", "bits": 2}, "residual"), ({"name": "kivi", "bits": 4}, "residual"),
        ({"name": "cached", "selection": "snapkv"}, "selection.budget"),
        ({"name": "cached", "store": "kivi"}, "store.residual"),
        ({"name": "window", "layers": {"1": "dense"}}, "window"),
        ({"name": "window", "layers": {"default": "snapkv"}}, "layers.default.budget"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["40%", "60%", "100%"])
def test_the_knob_is_the_largest_that_fits(params: dict[str, Any], knob: str, asked: str) -> None:
    prompt, layer = 700, FULL[0].at(SIXTEEN_BITS)
    found = solve(asked, registry.complete(params), FULL, 1, prompt)
    assert found.knob == knob
    assert found.value is not None
    method = registry.build(found.params)
    assert payload(method, [layer], 1, prompt) == found.got <= found.limit
    # Every other value either holds no more, or does not fit, or is not taken.
    step = method.knob_step
    for value in range(step, prompt + step, step):
        other = _with(found.params, knob, value)
        try:
            size = payload(registry.build(other), [layer], 1, prompt)
        except ValueError:
            continue
        assert size <= found.got or size > found.limit


def test_two_rows_hold_twice_as_much_and_get_the_same_window() -> None:
    one, two = solved("25%", {"name": "window"}), solved("25%", {"name": "window"}, batch=2)
    assert two.limit == 2 * one.limit
    assert two.value == one.value
    total, halved = solved("64KiB", {"name": "window"}).value, solved("64KiB", {"name": "window"}, batch=2).value
    assert total is not None
    assert halved == total // 2


def test_a_method_without_a_knob_is_shown_at_its_own_size() -> None:
    found = solved("25%", {"name": "linear"})
    assert (found.knob, found.value) == (None, None)
    assert found.got == payload(registry.build({"name": "linear"}), FULL, 1, 1000)


def test_where_nothing_fits_the_parameters_stay_and_there_is_no_value() -> None:
    found = solved("5%", {"name": "kivi", "bits": 8})
    assert (found.knob, found.value) == ("residual", None)
    assert found.params == registry.complete({"name": "kivi", "bits": 8})
