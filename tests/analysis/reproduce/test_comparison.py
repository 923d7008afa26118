"""The comparisons that are there, and what their YAML may not be."""

from __future__ import annotations

import pytest

from kvfrontier.analysis.reproduce import table
from kvfrontier.analysis.reproduce.comparison import SCALES, Comparison, comparison, names, read, scale
from kvfrontier.analysis.reproduce.judge import judge
from kvfrontier.runners.record import BadRecords

ALL = [comparison(name) for name in names()]
#: The numbers of the published comparisons that the project set out to judge; what is numbered higher came later.
FIRST = 15


def test_every_published_comparison_has_a_file() -> None:
    assert len(ALL) >= FIRST and len({c.name for c in ALL}) == len(ALL)


@pytest.mark.parametrize("at", SCALES, ids=["small", "large"])
def test_at_most_five_cannot_be_tested_and_each_says_why(at) -> None:
    untestable = [c for c in ALL if at in c.cannot]
    assert len(untestable) <= 5
    assert all(len(c.cannot[at]) > 20 for c in untestable)


@pytest.mark.parametrize("asked", ALL, ids=lambda c: c.name)
def test_it_says_where_its_figures_stand(asked: Comparison) -> None:
    figures = [f for case in asked.cases.values() for f in case.published.values()]
    # Identities have no figures.
    assert asked.where and (figures or asked.name == "equivalences")
    assert asked.states or asked.cannot
    assert all(view.measure or (view.cpu and view.gpu) for view in asked.views.values() if not asked.cannot)


@pytest.mark.parametrize("at", SCALES, ids=["small", "large"])
def test_a_scale_says_what_differs_from_the_papers(at) -> None:
    assert scale(at).differs and scale(at).overrides


GOOD = """
source: a paper
where: table 1
claim: a is better
paper_setup: theirs
views: {score: {unit: points}}
cases: {a: {published: {score: 2}}, b: {}}
states: [{better: a, than: b}]
"""


def test_the_example_is_read() -> None:
    assert read(GOOD, "good").cases["a"].published == {"score": 2}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (GOOD + "verdict: holds\n", "verdict"),  # nobody writes one by hand
        (GOOD.replace("than: b", "than: c"), "'c' in view 'score'"),
        (GOOD.replace("than: b", "view: text, than: b"), "'text'"),
        (GOOD.replace("better: a, than: b", "better: a"), "a statement is one of"),
        (GOOD.replace("better: a, than: b", "near: [b], within: 0.1"), "no published figure"),
        (GOOD.replace("states: [{better: a, than: b}]", ""), "states nothing"),
        ("- a list", "not a mapping"),
        ("a: !!python/object/apply:os.system ['true']", "not plain YAML"),
        ("a: [", "not plain YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(changed: str, said: str) -> None:
    with pytest.raises(BadRecords, match=said):
        read(changed, "changed")


def test_no_markup_comes_of_what_a_record_says() -> None:
    asked = read(GOOD.replace("a is better", "<img src=x onerror=alert(1)> | a"), "markup")
    page = table.page(table.data([judge(asked, "cpu", {})], scale("cpu")))
    assert "<img" not in page and "&lt;img src=x onerror=alert(1)&gt; \\| a" in page
