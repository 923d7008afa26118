"""What is measured without a model, beside what is known of it otherwise."""

from __future__ import annotations

import pytest

from kvfrontier.runners.allocators import published
from kvfrontier.runners.reproduce import measures
from kvfrontier.runners.reproduce.run import known


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_a_rotated_vector_is_coded_as_well_as_a_normal_variable(bits: int, error: float) -> None:
    """Max 1960, table 1."""
    found = measures.rotated_error(bits=bits, head_dim=1024, vectors=64, seeds=3, outlier=20)
    assert sum(found) / 3 == pytest.approx(error, rel=0.03)


def test_a_cache_takes_what_its_shapes_say() -> None:
    assert measures.cache_bytes("llama-3-8b", 1000, batch=2) == [2 * 1000 * 32 * 2 * 8 * 128 * 2]


def test_the_allocators_are_those_of_the_figure() -> None:
    asked = known("allocator-waste")
    assert {c.parameters["policy"]: c.published["score"] for c in asked.cases.values()} == published.figure(
        "vllm-fig2"
    ).published


@pytest.mark.slow
def test_what_changed_is_measured_again(tmp_path) -> None:
    asked = known("cache-sizes")
    assert measures.missing_measures(asked, tmp_path)
    measures.measure(asked, tmp_path, lambda _: None)
    assert not measures.missing_measures(asked, tmp_path)
    case = asked.cases["OPT-13B"].model_copy(update={"parameters": {"model": "opt-13b", "tokens": 2}})
    other = asked.model_copy(update={"cases": {**asked.cases, "OPT-13B": case}})
    assert measures.missing_measures(other, tmp_path)
