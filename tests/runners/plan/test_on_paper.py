"""The page of what nobody here can run is arithmetic on the plan of what it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvfrontier.runners.plan import on_paper, roofline, words
from kvfrontier.runners.plan.rows import Planned


@pytest.fixture(scope="module")
def lines() -> list[on_paper.Line]:
    return on_paper.lines(
        lambda _: None, models=["tiny"], methods=["method=dense", "method=window method.window=64"],
        contexts=[512], batches=[1, 64], devices=["h100-80g"],
    )  # fmt: skip


def test_each_gpu_holds_its_share_and_all_of_them_read_together(lines: list[on_paper.Line]) -> None:
    one, many = lines[0], lines[1]
    (asked,) = words.read(["model=tiny", "method=dense", "context=512", "device=h100-80g"])
    planned = Planned(asked)
    assert one.state == -(-planned.held_on_device(512, 1) // 8)
    assert many.state == -(-planned.held_on_device(512, 64) // 8)
    assert one.weights == many.weights == -(-planned.anatomy.weights // 8)
    alone = roofline.decode(asked.hardware, planned.anatomy, planned.layers, 1, 512, planned.held_on_device(512, 1))
    assert one.token == pytest.approx(alone.seconds / 8, rel=0.05)
    assert many.tokens_per_second == pytest.approx(64 / (many.token + many.sums))
    assert one.fits and one.needed == 8


def test_a_bounded_method_holds_less_and_reads_the_prompt_as_long(lines: list[on_paper.Line]) -> None:
    dense, window = lines[1], lines[3]
    assert window.method == "window" and window.state < dense.state
    assert window.first == pytest.approx(dense.first, rel=0.05)


def test_the_page_says_that_it_is_predicted_and_what_would_have_to_be_true(
    lines: list[on_paper.Line], tmp_path: Path
) -> None:
    _, page = on_paper.write(lines, {"dense": (0.5, "a processor", 3)}, tmp_path)
    text = page.read_text()
    assert "**Predicted, not measured.**" in text
    assert "| dense | 0.50 | 3 | a processor |" in text
    assert text.index("## What would have to be true") > text.index("## Beside what is measured")
    assert text.count("\n| dense | 512 |") == 2
    _, page = on_paper.write(lines, {}, tmp_path)
    assert "No record here times" in page.read_text()
