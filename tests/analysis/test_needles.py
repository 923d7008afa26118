"""Heat maps: what is found at which depth of which context."""

from __future__ import annotations

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.needles import heats


def samples(right: list[bool], depths: list[float]) -> list[dict]:
    return [{"correct": c, "depth": d, "generation": "x"} for c, d in zip(right, depths, strict=True)]


def test_answers_are_put_together_by_context_and_depth(cell_of) -> None:
    found = [
        cell_of("dense", 1024, "needle", quality__samples=samples([True, False, True, True], [0, 0, 0.5, 1])),
        cell_of("sinks", 1024, "needle", quality__samples=samples([False] * 4, [0, 0, 0.5, 1])),
    ]
    (board,) = boards(found)
    ((column, made),) = heats(board).items()
    assert column.score == "accuracy"
    assert [heat.row.method for heat in made] == ["dense", "sinks"]
    assert made[0].cells == {(1024, 0.0): (0.5, 2), (1024, 0.5): (1.0, 1), (1024, 1.0): (1.0, 1)}


def test_many_depths_are_put_together_in_tenths(cell_of) -> None:
    depths = [i / 49 for i in range(50)]
    found = [cell_of(m, 1024, "needle", quality__samples=samples([True] * 50, depths)) for m in ("dense", "sinks")]
    (made,) = heats(boards(found)[0]).values()
    assert sorted({depth for _, depth in made[0].cells}) == [i / 10 for i in range(11)]
    assert sum(n for _, n in made[0].cells.values()) == 50


def test_scores_whose_samples_have_no_depth_have_no_map(records) -> None:
    assert heats(boards(records)[0]) == {}


def test_the_figure_has_a_panel_a_method_and_says_each_mean(cell_of) -> None:
    right = samples([True, False, False], [0, 0.5, 1])
    (board,) = boards([cell_of(m, 1024, "needle", quality__samples=right) for m in ("dense", "sinks", "kivi4")])
    ((column, made),) = heats(board).items()
    with style.style():
        drawing = figures.needle_maps(board, column, made)
    assert [axes.get_title(loc="left") for axes in drawing.figure.axes] == ["dense", "sinks", "kivi4"]
    assert [t.get_text() for t in drawing.figure.axes[0].texts] == ["100", "0", "0"]
    assert "smollm2-135m" in " ".join(t.get_text() for t in drawing.figure.texts)
