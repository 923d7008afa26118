"""claimed | measured | verdict: judgements as data and as a page. No verdict is written anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kvfrontier.analysis.reproduce.comparison import ONLY, ScaleOf
from kvfrontier.analysis.reproduce.evidence import Evidence
from kvfrontier.analysis.reproduce.judge import RULE, Judgement

#: Digits that are kept, so that a verdict computed elsewhere, or again, gives the same data; and that a page shows.
KEPT, SHOWN = 6, 4


def data(judgements: Sequence[Judgement], scale: ScaleOf, words: Sequence[str] = ()) -> dict[str, Any]:
    """Judgements as plain data. `words`: overrides that were added to the scale's own."""
    return {
        "rule": RULE,
        "scale": judgements[0].scale if judgements else "",
        "runs_on": scale.says,
        "overrides": list(words),
        "differs": list(scale.differs),
        "comparisons": [_one(judgement) for judgement in judgements],
    }


def _one(judgement: Judgement) -> dict[str, Any]:
    asked = judgement.comparison
    return {
        "name": asked.name,
        "source": asked.source,
        "where": asked.where,
        "claim": asked.claim,
        "paper_setup": asked.paper_setup,
        "verdict": judgement.verdict,
        "why": judgement.why,
        "cases": [
            {
                "case": case,
                "view": view,
                "unit": asked.views[view].unit,
                "of": asked.cases[case].of,
                "claimed": asked.cases[case].published.get(view),
                **_measured(judgement.found.get((view, case))),
            }
            for view, case in asked.measured()
        ],
        "statements": [
            {
                "says": one.text,
                "outcome": one.outcome,
                "estimate": _round(one.estimate),
                "low": _round(one.low),
                "high": _round(one.high),
            }
            for one in judgement.statements
        ],
        "differs": list(asked.differs),
    }


def _measured(evidence: Evidence | None) -> dict[str, Any]:
    if evidence is None or evidence.problem:
        return {"measured": None, "low": None, "high": None, "n": 0, "problem": evidence.problem if evidence else ""}
    low, high = evidence.interval or (None, None)
    value = _round(evidence.value)
    return {"measured": value, "low": _round(low), "high": _round(high), "n": evidence.n, "problem": ""}


def page(found: dict[str, Any]) -> str:
    """The table and what stands behind each verdict, as Markdown, from `data`."""
    lines = [
        "# What papers claim, and what is measured here",
        "",
        f"{found['runs_on']} {_counted(found)}",
        "Every verdict is computed from the records beside this page (`kvfrontier reproduce --judge`), by one rule:",
        "",
        f"> {found['rule']}.",
        "",
        "Measured values have 95% intervals: bootstrap over questions, blocks of text or seeds.",
        f"Not as in the papers, for all: {'; '.join(found['differs'])}.",
        "",
    ]
    if found["overrides"]:
        lines += [f"Changed from the scale's own: `{' '.join(found['overrides'])}`.", ""]
    rows = [
        (f"[{one['name']}](#{one['name']})", one["claim"], *columns(one), f"**{one['verdict']}**", one["why"])
        for one in found["comparisons"]
    ]
    lines += _table(("Comparison", "Claim", "Claimed", "Measured", "Verdict", "Why"), rows)
    for one in found["comparisons"]:
        lines += ["", f"## {one['name']}", "", *_details(one)]
    return "\n".join(lines) + "\n"


def _details(one: dict[str, Any]) -> list[str]:
    """What stands behind one verdict."""
    cases = [
        (
            case["case"],
            case["of"],
            ("" if case["view"] == ONLY else f"{case['view']}: ") + case["unit"],
            _text(case["claimed"]),
            _text(case["measured"]) or case["problem"],
            _span(case),
            str(case["n"] or ""),
        )
        for case in one["cases"]
    ]
    states = [(s["says"], s["outcome"], _text(s["estimate"]), _span(s)) for s in one["statements"]]
    lines = [f"{_escaped(one['source'])}, {_escaped(one['where'])}. Theirs: {_escaped(one['paper_setup'])}.", ""]
    lines += _table(("Case", "In the paper", "Score", "Claimed", "Measured", "95%", "n"), cases)
    if states:
        lines += ["", *_table(("Statement", "Outcome", "Estimate", "95%"), states)]
    lines += ["", f"Verdict: **{one['verdict']}** ({_escaped(one['why'])})."]
    if one["differs"]:
        lines += ["", "Not as in the paper:", "", *(f"- {_escaped(text)}" for text in one["differs"])]
    return lines


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_escaped(text) for text in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _span(found: dict[str, Any]) -> str:
    return "" if found["low"] is None else f"{_text(found['low'])} to {_text(found['high'])}"


def columns(one: dict[str, Any]) -> tuple[str, str]:
    """The published figures, and the measured ones in the same order."""
    several = len({case["view"] for case in one["cases"]}) > 1

    def name(case: dict[str, Any]) -> str:
        return case["case"] + (f" ({case['view']})" if several else "")

    claimed = [f"{name(c)} {_text(c['claimed'])}" for c in one["cases"] if c["claimed"] is not None]
    measured = [f"{name(c)} {_text(c['measured'])}" for c in one["cases"] if c["measured"] is not None]
    return ", ".join(claimed), ", ".join(measured)


def _counted(found: dict[str, Any]) -> str:
    verdicts = [one["verdict"] for one in found["comparisons"]]
    kinds = ("holds", "holds in direction", "fails", "cannot be tested here")
    told = [f"{verdicts.count(kind)} {kind}" for kind in kinds if kind in verdicts]
    return f"Of {len(verdicts)} published comparisons: {', '.join(told)}."


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.{SHOWN}g}" if abs(value) < 10**SHOWN else f"{value:,.0f}"


def _round(value: float | None) -> float | None:
    """To the digits that are kept, and 0 for what rounding alone makes."""
    return None if value is None else 0.0 if abs(value) < 1e-9 else float(f"{value:.{KEPT}g}")


def _escaped(text: str) -> str:
    """Text that stands in a cell of a Markdown table: it ends no cell, and no markup comes of it."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("|", "\\|").replace("\n", " ")
