"""The rule by which a published comparison holds, or does not.

Each statement of a claim has an outcome:

    shown         its 95% interval lies wholly on the side that it claims. An equality is shown by two one-sided tests
                  at 5%, a published value where the whole interval lies within its tolerance
    in direction  the estimate is on that side, and the interval is not
    undecided     the cases score the same
    against       the estimate is on the other side, by no more than noise
    contradicted  the whole interval is on the other side

and the verdict follows from these (RULE). Nothing else has a say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from kvfrontier.analysis.reproduce.comparison import ONLY, Comparison, Scale, Statement, several
from kvfrontier.analysis.reproduce.evidence import Evidence, missing
from kvfrontier.analysis.stats import MIN_PAIRED, floor

Outcome = Literal["shown", "in direction", "undecided", "against", "contradicted"]
Verdict = Literal["holds", "holds in direction", "fails", "cannot be tested here"]

RULE = (
    "cannot be tested here: the model cannot do the task, a case could not be measured, or the task tells no case from "
    "another; fails: the estimate of a statement about which is better points the other way, or, of a claim about size "
    "alone, an estimate is outside its tolerance; holds: every statement is shown, by an interval of 95% (equality and "
    "published values within the stated tolerance); holds in direction: the rest"
)

Found = Mapping[tuple[str, str], Evidence]


@dataclass(frozen=True)
class Judged:
    """A statement, what it came to, and by which number with which interval. `about_size`: it says how large something
    is (equal, near a published value), and not which is better."""

    text: str
    outcome: Outcome
    estimate: float
    low: float | None
    high: float | None
    about_size: bool = False


@dataclass(frozen=True)
class Judgement:
    """The verdict on a comparison, why, and what was measured. `found` is by (view, case)."""

    comparison: Comparison
    scale: Scale
    verdict: Verdict
    why: str
    statements: tuple[Judged, ...]
    found: Found


def judge(comparison: Comparison, scale: Scale, found: Found) -> Judgement:
    """The verdict by RULE. Of what is not in `found` it is known only that nobody measured it."""
    absent = {key: missing("not measured") for key in comparison.needed() if key not in found}
    reason = untestable(comparison, scale, {**found, **absent})
    if reason:
        return Judgement(comparison, scale, "cannot be tested here", reason, (), found)
    statements = tuple(one for state in comparison.states for one in _judged(state, comparison, found))
    return Judgement(comparison, scale, *verdict(statements), statements, found)


def untestable(comparison: Comparison, scale: Scale, found: Found) -> str:
    """Why a comparison cannot be tested, by what it says itself and by what was measured; empty where it can. Before
    the run, `found` has what is recorded already."""
    if scale in comparison.cannot:
        return comparison.cannot[scale]
    for need in comparison.needs:
        evidence = found.get((need.view, need.case))
        if evidence is None or evidence.problem:
            continue
        least = max(need.at_least, floor(evidence.value, evidence.chance) or 0.0)
        if evidence.value < least:
            return f"{_named(need.case, need.view)} scores {evidence.value:.3g}, and the claim needs {least:.3g}"
    for view, case in sorted(comparison.needed() & found.keys()):
        evidence = found[view, case]
        if evidence.problem:
            return f"{_named(case, view)}: {evidence.problem}"
    return ""


def verdict(statements: Sequence[Judged]) -> tuple[Verdict, str]:
    """What outcomes come to, by RULE, and the reason in words."""
    outcomes = [one.outcome for one in statements]
    about_order = [one for one in statements if not one.about_size]
    wrong = [one for one in about_order if one.outcome in ("against", "contradicted")]
    unshown = [one for one in statements if one.outcome != "shown"]
    if wrong:
        noise = "" if any(one.outcome == "contradicted" for one in wrong) else ", within noise"
        return "fails", f"not so{noise}: {'; '.join(one.text for one in wrong)}"
    if not unshown:
        return "holds", f"all {len(outcomes)} statements shown" if len(outcomes) > 1 else "shown"
    outside = [one for one in unshown if one.outcome != "in direction"]
    if outside and not about_order:
        return "fails", f"not so: {'; '.join(one.text for one in outside)}"
    if about_order and all(one.outcome == "undecided" for one in about_order):
        return "cannot be tested here", "the task tells no case from another"
    rest = "; ".join(f"{one.text} ({one.outcome})" for one in unshown)
    return "holds in direction", f"{outcomes.count('shown')} of {len(outcomes)} statements shown; {rest}"


def _judged(state: Statement, comparison: Comparison, found: Found) -> list[Judged]:
    """A statement's outcomes: one for each pair of cases that it compares."""
    of = {case: found[state.view, case] for case in state.cases}
    if state.near is not None:
        published = {case: comparison.cases[case].published[state.view] for case in state.near}
        return [_near(case, of[case], published[case], state.within or 0.0) for case in state.near]
    # From here on more is better, whatever the score.
    value = {case: e.value if e.higher else -e.value for case, e in of.items()}
    draws = {case: e.resampled() if e.higher else -e.resampled() for case, e in of.items()}
    n = min(len(values) for e in of.values() for values in e.units.values())
    if state.better is not None:
        a = state.better
        pairs = [(f"{a} better than {b}", value[a] - value[b], draws[a] - draws[b]) for b in several(state.than)]
        return [_sided(*pair, n) for pair in pairs]
    if state.contrast is not None:
        total = sum(weight * value[case] for case, weight in state.contrast.items())
        sums = np.sum([weight * draws[case] for case, weight in state.contrast.items()], axis=0)
        return [_sided(state.says, total, sums, n)]
    if state.order is not None:
        text = f"{' > '.join(state.order)}, by rank correlation"
        once = np.array([[value[case]] for case in state.order])
        return [_sided(text, float(_tau(once)[0]), _tau(np.stack([draws[case] for case in state.order])), n)]
    b, within = str(state.to), state.within or 0.0
    return [
        _equal(f"{a} equal to {b} within {within:g}", value[a] - value[b], draws[a] - draws[b], within, n, of[a].share)
        for a in several(state.equal)
    ]


def _sided(text: str, estimate: float, draws: np.ndarray, n: int) -> Judged:
    """Whether something is positive."""
    low, high = _interval(draws, 0.95) if n >= MIN_PAIRED else (None, None)
    if low is not None and low > 0:
        outcome: Outcome = "shown"
    elif high is not None and high < 0:
        outcome = "contradicted"
    else:
        outcome = "in direction" if estimate > 0 else "against" if estimate < 0 else "undecided"
    return Judged(text, outcome, estimate, low, high)


def _equal(text: str, estimate: float, draws: np.ndarray, within: float, n: int, share: bool) -> Judged:
    """Whether a difference is within a margin, both ways. Right answers alone show no rare loss: by the rule of three
    that takes 3 / margin of them."""
    low, high = _interval(draws, 0.95) if n >= MIN_PAIRED else (None, None)
    inner = _interval(draws, 0.90) if n >= (3 / within if share else MIN_PAIRED) else None
    if inner and -within < inner[0] and inner[1] < within:
        outcome: Outcome = "shown"
    elif low is not None and high is not None and (low > within or high < -within):
        outcome = "contradicted"
    else:
        outcome = "in direction" if abs(estimate) < within else "against"
    return Judged(text, outcome, estimate, low, high, about_size=True)


def _near(case: str, evidence: Evidence, published: float, within: float) -> Judged:
    """Whether a value is the published one, relative to it. What is computed and not sampled has no interval."""
    text = f"{case} within {within:.3g} of {published:g}"
    reach = within * abs(published)
    low, high = evidence.interval or (evidence.value, evidence.value)
    if low >= published - reach and high <= published + reach:
        outcome: Outcome = "shown"
    elif high < published - reach or low > published + reach:
        outcome = "contradicted"
    else:
        outcome = "in direction" if abs(evidence.value - published) <= reach else "against"
    return Judged(text, outcome, evidence.value, low, high, about_size=True)


def _interval(draws: np.ndarray, share: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - share) / 2, (1 + share) / 2]).tolist()
    return low, high


def _tau(scores: np.ndarray) -> np.ndarray:
    """Kendall's tau-a [R] of scores [cases, R] with the order in which the cases stand, best first. A tie counts
    nothing."""
    pairs = list(combinations(range(len(scores)), 2))
    return np.sum([np.sign(scores[i] - scores[j]) for i, j in pairs], axis=0) / len(pairs)


def _named(case: str, view: str) -> str:
    return case if view == ONLY else f"{case} ({view})"
