"""Which layer of a hybrid does what."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from kvfrontier.methods import Dense, registry
from kvfrontier.methods.recurrent.gated_deltanet import GatedDeltaNet
from kvfrontier.methods.recurrent.hybrid import Hybrid, Mixer


def test_the_last_of_each_four_layers_attends_to_all(reference) -> None:
    """As Qwen3-Next: of twelve layers 3, 7 and 11."""
    layers = [replace(reference.layer, index=i, count=12) for i in range(12)]
    full = [layer.index for layer in layers if Hybrid().at(layer) == Dense()]
    assert full == [3, 7, 11]


def test_there_is_a_full_layer_however_few_there_are(reference) -> None:
    assert Hybrid(every=8).at(replace(reference.layer, index=2, count=3)) == Dense()
    assert Hybrid(every=8).at(replace(reference.layer, index=1, count=3)) == GatedDeltaNet()


def test_a_quarter_of_the_cache_is_left(reference) -> None:
    n = 10**6
    layers = [replace(reference.layer, index=i, count=12) for i in range(12)]
    left, dense = (sum(m.footprint(layer, 1, n).held.payload for layer in layers) for m in (Hybrid(), Dense()))
    assert left / dense == pytest.approx(1 / 4, rel=1e-3)


@pytest.mark.parametrize("mixer", get_args(Mixer))
def test_a_mixer_is_the_registered_method_of_its_name(reference, mixer: Mixer) -> None:
    assert Hybrid(mixer=mixer).at(replace(reference.layer, index=0, count=2)) == registry.build({"name": mixer})


def test_layers_and_mixers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.every to at least 1"):
        Hybrid(every=0)
    with pytest.raises(ValueError, match=r"method\.mixer='gated'"):
        registry.build({"name": "hybrid", "mixer": "gated"})
