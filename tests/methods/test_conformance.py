"""The conformance suite over every registered method, with parameters small enough that each of them bites."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kvfrontier.methods import Layer, Method, Step, registry
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.state import Buf, State
from kvfrontier.runners.conformance import CHECKS, tiny

ROWS = sorted((Path(__file__).parent / "rows").glob("*.yaml"))
#: At least one row a registered method, from a file a room.
METHODS: list[dict[str, Any]] = [row for file in ROWS for row in yaml.safe_load(file.read_text(encoding="utf-8"))]


def title(params: dict[str, Any]) -> str:
    return " ".join(str(v) for v in params.values())


def test_every_registered_method_is_in_the_suite() -> None:
    ours = {name for name, entry in registry.entries().items() if entry.factory.__module__.startswith("kvfrontier.")}
    assert ours == {params["name"] for params in METHODS}


@pytest.mark.parametrize("params", METHODS, ids=title)
@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_conformance(check, params: dict[str, Any]) -> None:
    check(registry.build(params))


# Planted lies: the suite must name each of them.


@dataclass(frozen=True)
class HidesATensor(Cached):
    """Holds keys outside its state."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        state.cache = k.clone()
        return super().attend(q, k, v, state, layer, step)


@dataclass
class Expanded(State):
    k: Buf
    v: Buf


@dataclass(frozen=True)
class ExpandsGroups(Method):
    """Repeats keys and values for every query head, and counts as if it did not."""

    def init_state(self, layer: Layer, batch: int) -> Expanded:
        return Expanded(*(Buf.empty(batch, layer.hq, 0, d) for d in (layer.d, layer.dv)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        from kvfrontier.methods.attend.eager import attend

        state.k.append(k.repeat_interleave(layer.group, 1))
        state.v.append(v.repeat_interleave(layer.group, 1))
        return attend(q, state.k.view(), state.v.view(), scale=layer.scale, causal=True)[0]

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Cached().footprint(layer, batch, prompt, new, sealed)


@pytest.mark.parametrize("lie", [HidesATensor(), ExpandsGroups()], ids=lambda m: type(m).__name__)
def test_a_planted_lie_about_memory_is_caught(lie: Method) -> None:
    with pytest.raises((AssertionError, TypeError), match=r"hidden|not fields|its footprint says"):
        CHECKS["live_bytes_equal_analytic_bytes"](lie)


def test_a_false_flag_is_caught() -> None:
    @dataclass(frozen=True)
    class SaysItDepends(Cached):
        chunk_invariant = False
        decode_equals_prefill = property(lambda self: False)  # pyright: ignore[reportAssignmentType]

    for name in ("chunks_do_not_matter", "decode_equals_prefill"):
        with pytest.raises(AssertionError, match="declared"):
            CHECKS[name](SaysItDepends())


def test_a_false_word_about_queries_is_caught() -> None:
    check = CHECKS["what_is_held_depends_on_queries_just_where_it_is_declared"]

    @dataclass(frozen=True)
    class SaysItLooks(Cached):
        query_sensitive = True  # pyright: ignore[reportAssignmentType]

    @dataclass(frozen=True)
    class SaysItDoesNot(Cached):
        query_sensitive = False  # pyright: ignore[reportAssignmentType]

    with pytest.raises(AssertionError, match="holds the same"):
        check(SaysItLooks())
    with pytest.raises(AssertionError, match="declared not to depend"):
        check(SaysItDoesNot(SnapKVSelection(40, 8, 5)))


def test_the_tiny_model_is_the_same_every_time() -> None:
    assert tiny() is tiny()
    with torch.no_grad():
        assert tiny()(torch.tensor([[1, 2, 3]])).logits.abs().max() > 1
