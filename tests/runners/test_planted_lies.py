"""Methods that under-report memory, registered like any other: the conformance suite names the lie of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from torch import Tensor

from kvfrontier.methods import Footprint, Layer, Step, registry
from kvfrontier.methods.attend.eager import attend
from kvfrontier.methods.baselines.dense import Dense
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Method
from kvfrontier.methods.stores.dense import KV
from kvfrontier.methods.stores.quantized import QuantizedStore
from kvfrontier.runners import cli, conformance

BYTES, OUTSIDE = "live_bytes_equal_analytic_bytes", "it_holds_nothing_outside_its_state"


@dataclass(frozen=True)
class Hides(Cached):
    """Remembers every key in a list of its class, and says that it holds what dense attention does."""

    elsewhere: ClassVar[list[Tensor]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        self.elsewhere.append(k.clone())
        return super().attend(q, k, v, state, layer, step)


@dataclass(frozen=True)
class Expands(Method):
    """Repeats keys and values for every query head, and counts as if it did not."""

    def init_state(self, layer: Layer, batch: int) -> KV:
        return KV.empty(replace(layer, hkv=layer.hq), batch, exact=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        state.k.append(k.repeat_interleave(layer.group, 1))
        state.v.append(v.repeat_interleave(layer.group, 1))
        return attend(q, state.k.view(), state.v.view(), scale=layer.scale, causal=True)[0]

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Dense().footprint(layer, batch, prompt, new, sealed)


@dataclass(frozen=True)
class ForgetsScales(QuantizedStore):
    """Counts codes and nothing of their scales and zeros."""

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        if not sealed:
            return super().footprint(layer, batch, slots, sealed, bounded)
        return Footprint.of(self.nominal(layer, batch, slots), read=self.nominal(layer, 1, slots))


def forgetful() -> Cached:
    return Cached(store=ForgetsScales(0, bits=8, group=16, key_axis="token"))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three, registered until the test ends."""
    monkeypatch.setattr(registry, "_entries", dict(registry.entries()))
    for name, factory in (("hides", Hides), ("expands", Expands), ("forgets_scales", forgetful)):
        registry.register(name, family="selection", cost="less than it says")(factory)
    Hides.elsewhere.clear()


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("name", "check"), [("hides", OUTSIDE), ("expands", BYTES), ("forgets_scales", BYTES)])
def test_a_registered_lie_is_named(name: str, check: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    # The two checks that count: the whole suite takes as long for a liar as for others.
    monkeypatch.setattr(conformance, "CHECKS", {key: conformance.CHECKS[key] for key in (BYTES, OUTSIDE)})
    assert cli.main(["check", name, "--json"]) == 1
    failing = {row["check"]: row["found"] for row in json.loads(capfd.readouterr().out) if not row["holds"]}
    assert set(failing) == {check}
    assert any(said in failing[check] for said in ("its footprint says", "bytes live outside"))


@pytest.mark.usefixtures("planted")
def test_what_does_not_lie_is_not_named(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(conformance, "CHECKS", {key: conformance.CHECKS[key] for key in (BYTES, OUTSIDE)})
    assert cli.main(["check", "dense"]) == 0
    assert "2 of 2 hold" in capfd.readouterr().out
