"""The picture of a trace, from made-up steps."""

from typing import Any, Literal

import pytest

from kvfrontier.analysis import style
from kvfrontier.analysis.trace import Step, Trace, draw, words, write_csv
from kvfrontier.runners.record import Cell, Environment, Parts

MIB = 1 << 20


def made(weights: int, kind: Literal["cpu", "cuda"] = "cpu") -> Trace:
    parts = [Parts(weights=weights, state=i * MIB, host=MIB, activations=(4 - i) * 3 * MIB) for i in range(1, 4)]
    rests = [Parts(weights=weights, state=i * MIB, host=MIB) for i in range(1, 4)]
    phases = ("prefill", "prefill", "decode")
    return Trace(
        cell=Cell(model="m", dtype="float32", device=kind, method={"name": "dense"}, task={"name": "needle"},
                  protocol={"chunk": 64}, context=129),
        label="dense",
        environment=Environment(device_name="EPYC", device_kind=kind, threads=1, platform="Linux", python="3.11",
                                torch="2.13.0", transformers="5.23.0", kvfrontier="0.1.0"),
        steps=tuple(Step(phase=p, tokens=64 * (i + 1), peak=a, rest=b)
                    for i, (p, a, b) in enumerate(zip(phases, parts, rests, strict=True))),
    )  # fmt: skip


@pytest.mark.parametrize("weights", [2 * MIB, 500 * MIB])
def test_bands_stack_to_the_peak_of_every_step(weights):
    trace = made(weights)
    with style.style():
        (axes,) = draw(trace).figure.axes
    steps: list[Any] = list(axes.patches)
    tops = [patch.get_data().values for patch in steps]
    floor = tops[0][0]
    # Weights that would leave no room stand on a floor.
    assert (floor == weights) == (weights < 10 * MIB)
    *_, highest, rest = tops
    assert list(highest) == pytest.approx([trace.bytes(s.peak) - weights + floor for s in trace.steps])
    assert list(rest) == pytest.approx([trace.bytes(s.rest) - weights + floor for s in trace.steps])
    said = [text.get_text() for text in axes.texts]
    assert any(text.startswith("peak ") and "at 64 tokens (prefill)" in text for text in said)
    assert any("not to scale" in text for text in said) == (weights > 10 * MIB)


def test_the_hosts_part_is_no_part_of_a_gpus_peak():
    assert made(MIB).bytes(made(MIB).steps[0].peak) - made(MIB, "cuda").bytes(made(MIB).steps[0].peak) == MIB


def test_words_name_the_largest_part_first():
    assert words(made(2 * MIB)).startswith(
        "peak 13.0 MiB in prefill, at 64 tokens: activations 9.00 MiB (69%), weights"
    )


def test_the_table_has_a_line_a_step():
    lines = write_csv(made(MIB)).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith(f"0,prefill,64,{MIB},{MIB},0,{MIB},0,{9 * MIB},0,")
