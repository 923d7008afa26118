"""The rule of verdicts, on evidence that is made up so that the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from kvfrontier.analysis.reproduce import judge as judging
from kvfrontier.analysis.reproduce.comparison import Case, Comparison, Needs, Statement, View
from kvfrontier.analysis.reproduce.evidence import Evidence, missing
from kvfrontier.analysis.reproduce.judge import judge

rng = np.random.default_rng(3)
NOISE = rng.normal(0, 1, 60)


def claim(*states: Statement, published: dict[str, float] | None = None, **about) -> Comparison:
    cases = {name: Case(published={"score": (published or {}).get(name, 0.0)}) for name in "abcd"}
    return Comparison(
        name="made-up", source="nobody", where="nowhere", claim="a claim", paper_setup="none",
        views={"score": View()}, cases=cases, states=states, **about,
    )  # fmt: skip


def scores(noise: np.ndarray = NOISE, *, higher: bool = True, share: bool = False, **means: float):
    """Evidence of cases on the same samples: the same noise around each mean."""
    return {
        ("score", name): Evidence({"samples": (mean + noise).tolist()}, higher=higher, share=share)
        for name, mean in means.items()
    }


def verdict(comparison: Comparison, found) -> str:
    return judge(comparison, "cpu", found).verdict


def test_a_difference_is_paired_where_the_samples_are_the_same() -> None:
    """Noise of 1 hides a difference of 0.1 between two sets of 60 samples, and not on one set."""
    state = claim(Statement(better="a", than="b"))
    paired = scores(a=0.1, b=0.0)
    assert verdict(state, paired) == "holds"
    other = Evidence({"others": rng.normal(0, 1, 60).tolist()})
    assert verdict(state, paired | {("score", "b"): other}) != "holds"


def test_less_is_better_where_the_score_says_so() -> None:
    state = claim(Statement(better="a", than="b"))
    assert verdict(state, scores(a=1.0, b=2.0)) == "fails"
    assert verdict(state, scores(a=1.0, b=2.0, higher=False)) == "holds"


def test_an_estimate_within_noise_is_a_direction() -> None:
    found = scores(a=0.0, b=0.0)
    noisy = Evidence({"samples": (NOISE + 0.05 + rng.permutation(NOISE)).tolist()})
    judged = judge(claim(Statement(better="a", than="b")), "cpu", found | {("score", "a"): noisy})
    assert judged.statements[0].low is not None and judged.statements[0].low < 0 < judged.statements[0].estimate
    assert judged.verdict == "holds in direction"


def test_cases_that_score_the_same_decide_nothing() -> None:
    assert verdict(claim(Statement(better="a", than="b")), scores(a=1.0, b=1.0)) == "cannot be tested here"


def test_one_statement_that_points_the_other_way_fails_the_claim() -> None:
    states = Statement(better="a", than="b"), Statement(better="c", than="a")
    judged = judge(claim(*states), "cpu", scores(a=1.0, b=0.0, c=0.5))
    assert judged.verdict == "fails"
    assert [one.outcome for one in judged.statements] == ["shown", "contradicted"]
    assert "c better than a" in judged.why


def test_an_equality_is_shown_by_two_one_sided_tests() -> None:
    state = claim(Statement(equal="a", to="b", within=0.2))
    assert judge(state, "cpu", scores(a=0.1, b=0.0)).statements[0].outcome == "shown"
    assert judge(state, "cpu", scores(a=0.5, b=0.0)).statements[0].outcome == "contradicted"


def test_a_few_right_answers_show_no_equality() -> None:
    """Rule of three: 20 answers without a loss are a loss of up to 15%."""
    always = np.zeros(20)
    state = claim(Statement(equal="a", to="b", within=0.1), Statement(better="a", than="c"))
    found = scores(always, a=1.0, b=1.0, c=0.0, share=True)
    assert [one.outcome for one in judge(state, "cpu", found).statements] == ["in direction", "shown"]
    assert verdict(state, found) == "holds in direction"
    assert verdict(state, scores(np.zeros(40), a=1.0, b=1.0, c=0.0, share=True)) == "holds"


def test_an_order_is_judged_by_rank_correlation() -> None:
    state = claim(Statement(order=("a", "b", "c", "d")))
    assert verdict(state, scores(a=4, b=3, c=2, d=1)) == "holds"
    assert judge(state, "cpu", scores(a=4, b=3, c=1, d=2)).statements[0].estimate == pytest.approx(2 / 3)
    assert verdict(state, scores(a=1, b=2, c=3, d=4)) == "fails"


def test_a_gap_that_shrinks_is_a_contrast() -> None:
    state = claim(Statement(contrast={"a": 1, "b": -1, "c": -1, "d": 1}, says="the gap shrinks"))
    assert verdict(state, scores(a=3, b=0, c=3, d=2)) == "holds"
    assert verdict(state, scores(a=3, b=2, c=3, d=0)) == "fails"


def test_a_published_value_is_met_within_its_tolerance() -> None:
    state = claim(Statement(near=("a",), within=0.05), published={"a": 100.0})
    computed = {("score", "a"): Evidence({"once": [104.0]})}
    assert verdict(state, computed) == "holds"
    assert verdict(state, {("score", "a"): Evidence({"once": [106.0]})}) == "fails"
    assert judge(state, "cpu", computed).statements[0].about_size


def test_a_size_that_noise_leaves_open_holds_in_direction() -> None:
    state = claim(Statement(near=("a",), within=0.01), published={"a": 10.0})
    found = {("score", "a"): Evidence({"samples": (10 + NOISE - NOISE.mean()).tolist()})}
    assert verdict(state, found) == "holds in direction"


def test_an_order_that_holds_with_other_values_holds_in_direction() -> None:
    states = Statement(better="a", than="b"), Statement(near=("a",), within=0.05)
    assert verdict(claim(*states, published={"a": 9.0}), scores(a=1.0, b=0.0)) == "holds in direction"


def test_a_model_that_cannot_do_the_task_carries_no_verdict() -> None:
    state = claim(Statement(better="a", than="b"), needs=(Needs(case="a", at_least=0.5),))
    judged = judge(state, "cpu", scores(a=0.3, b=0.0))
    assert judged.verdict == "cannot be tested here" and "needs 0.5" in judged.why


def test_nor_does_one_that_only_guesses() -> None:
    guessed = Evidence({"samples": [0.3] * 20}, chance=0.25)
    state = claim(Statement(better="a", than="b"), needs=(Needs(case="a", at_least=0.1),))
    assert verdict(state, scores(b=0.0) | {("score", "a"): guessed}) == "cannot be tested here"


def test_what_was_not_measured_is_said() -> None:
    found = scores(a=1.0) | {("score", "b"): missing("out of memory")}
    judged = judge(claim(Statement(better="a", than="b")), "cpu", found)
    assert judged.verdict == "cannot be tested here" and "out of memory" in judged.why


def test_a_scale_that_cannot_test_it_says_so_before_anything_is_measured() -> None:
    state = claim(Statement(better="a", than="b"), cannot={"cpu": "no model of that kind"})
    assert judging.untestable(state, "cpu", {}) == "no model of that kind"
    assert judging.untestable(state, "gpu", {}) == ""


def test_a_verdict_is_the_same_whenever_it_is_computed() -> None:
    state = claim(Statement(better="a", than="b"))
    found = scores(a=0.3, b=0.0) | {("score", "b"): Evidence({"others": NOISE.tolist()})}
    assert judge(state, "cpu", found).statements == judge(state, "cpu", found).statements
