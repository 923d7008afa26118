"""A published comparison: what was claimed, and what would have to be measured for it to hold here.

It is a YAML of configs/reproduce; unknown keys are errors. A *view* is a way to score (a task, or a measurement that
needs no model), a *case* is what is compared (a method with its parameters), and a *statement* is what the claim says
of cases in a view.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvfrontier.runners.record import BadRecords

Scale = Literal["cpu", "gpu"]
SCALES: tuple[Scale, ...] = ("cpu", "gpu")
#: A view that is said nothing else of.
ONLY = "score"


class Part(BaseModel):
    """Strict base: a word that nobody reads is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(Part):
    """How cases are scored.

    score    name of the task's score; None: its primary one
    unit     of the published figures, in words
    cpu, gpu overrides of a cell at that scale, as for `kvfrontier run`
    measure  in place of a task: a measurement of runners/reproduce/measures.py, which needs no model
    """

    score: str | None = None
    unit: str = ""
    cpu: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    measure: str | None = None

    def overrides(self, scale: Scale) -> tuple[str, ...]:
        return self.cpu if scale == "cpu" else self.gpu


class Case(Part):
    """What is compared: overrides of a cell, or the parameters of a measurement.

    published   the paper's figure by view; `of` tells a reader what it was there, where our name does not
    views       in which it is measured; None: in all
    """

    published: dict[str, float] = Field(default_factory=dict)
    of: str = ""
    cell: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    views: tuple[str, ...] | None = None


class Statement(Part):
    """One thing that the claim says; more is better in each of them, whatever the score.

    better, than      one case is better than another, or than each of several
    equal, to         one is equal to another (or each of several is) to `within`, in the score's unit
    order             cases from best to worst: Kendall's rank correlation with what was measured is positive
    contrast          a weighted sum of the cases' scores is positive: a gap that shrinks, a share of a loss that is won
                      back. Signs are for scores of which more is better
    near              each measured value is the published one to `within`, relative
    """

    better: str | None = None
    than: str | tuple[str, ...] | None = None
    equal: str | tuple[str, ...] | None = None
    to: str | None = None
    order: tuple[str, ...] | None = None
    contrast: dict[str, float] | None = None
    near: tuple[str, ...] | None = None
    within: float | None = Field(default=None, gt=0)
    view: str = ONLY
    says: str = ""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Statement:
        kinds = {
            "better": self.better is not None and self.than is not None,
            "equal": self.equal is not None and self.to is not None and self.within is not None,
            "order": self.order is not None and len(self.order) > 2,
            "contrast": bool(self.contrast) and bool(self.says),
            "near": bool(self.near) and self.within is not None,
        }
        if sum(kinds.values()) != 1:
            raise ValueError(
                "a statement is one of: better and than; equal, to and within; order, of at least three; contrast and "
                "says; near and within"
            )
        return self

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases that it speaks of."""
        found = [self.better, *several(self.than), *several(self.equal), self.to, *(self.order or ())]
        return tuple(dict.fromkeys(c for c in [*found, *(self.contrast or ()), *(self.near or ())] if c is not None))


class Needs(Part):
    """A case must score at least this in a view, or the model cannot carry the claim."""

    case: str
    at_least: float
    view: str = ONLY


class Comparison(Part):
    """One published comparison.

    source   paper, and `where` in it the figures stand
    claim    what it says, in words
    views    ways to score, by name; most comparisons have one, named "score"
    cases    by name
    states   the statements that together are the claim
    needs    what the model must be able to do for a verdict to mean anything
    differs  what is not as in the paper, beyond what the scale says (configs/scale)
    cannot   by scale, why it cannot be tested there at all: known before the run
    """

    name: str
    source: str
    where: str
    claim: str
    paper_setup: str
    views: dict[str, View] = Field(min_length=1)
    cases: dict[str, Case] = Field(min_length=1)
    states: tuple[Statement, ...] = ()
    needs: tuple[Needs, ...] = ()
    differs: tuple[str, ...] = ()
    cannot: dict[Scale, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Comparison:
        for view, case in self.needed():
            if case not in self.cases or view not in self.views:
                raise ValueError(f"{case!r} in view {view!r} is none of its cases and views")
            if view not in self.views_of(case):
                raise ValueError(f"{case!r} is not measured in view {view!r}")
        for name, case in self.cases.items():
            unknown = [*(set(case.published) - set(self.views)), *(set(case.views or ()) - set(self.views))]
            if unknown:
                raise ValueError(f"case {name!r} speaks of views that there are not: {', '.join(unknown)}")
        for statement in self.states:
            lacking = [c for c in statement.near or () if statement.view not in self.cases[c].published]
            if lacking:
                raise ValueError(f"near: {', '.join(lacking)} has no published figure")
        if not self.states and set(self.cannot) != set(SCALES):
            raise ValueError("it states nothing, and does not say why it cannot be tested at each scale")
        return self

    def views_of(self, case: str) -> tuple[str, ...]:
        """The views in which a case is measured."""
        asked = self.cases[case].views
        return tuple(self.views) if asked is None else asked

    def needed(self) -> set[tuple[str, str]]:
        """Every (view, case) on which the verdict rests; others are only shown."""
        found = {(s.view, case) for s in self.states for case in s.cases}
        return found | {(need.view, need.case) for need in self.needs}

    def measured(self) -> list[tuple[str, str]]:
        """Every (view, case) that is to be measured."""
        return [(view, case) for case in self.cases for view in self.views_of(case)]


class ScaleOf(Part):
    """What a scale runs on: overrides of all its cells, what it is in words, and how that differs from the papers."""

    says: str
    overrides: tuple[str, ...]
    differs: tuple[str, ...]


P = TypeVar("P", bound=Part)


def names() -> list[str]:
    """The comparisons that there are, as their files are numbered."""
    found = sorted(file.name for file in _configs("reproduce").iterdir() if file.name.endswith(".yaml"))
    return [_name(file) for file in found]


def comparison(name: str) -> Comparison:
    """One comparison. Raises KeyError where there is none of this name, and BadRecords where its YAML is wrong."""
    for file in _configs("reproduce").iterdir():
        if file.name.endswith(".yaml") and _name(file.name) == name:
            return read(file.read_text(encoding="utf-8"), name)
    raise KeyError(name)


def read(text: str, name: str) -> Comparison:
    """A comparison from the text of its YAML, of which only plain data is read. Raises BadRecords."""
    return _valid(Comparison, {"name": name, **_document(text, name)}, name)


def scale(name: Scale) -> ScaleOf:
    """What a scale runs on (configs/scale)."""
    text = _configs("scale").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return _valid(ScaleOf, _document(text, name), name)


def _configs(group: str) -> Traversable:
    """A folder of configs/, found when it is read: analysis imports nothing of it."""
    return files("kvfrontier.configs").joinpath(group)


def _document(text: str, name: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRecords(f"{name}: not plain YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise BadRecords(f"{name}: not a mapping of words to values")
    return data


def _valid(kind: type[P], data: dict[str, Any], name: str) -> P:
    try:
        return kind(**data)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"]))
        raise BadRecords(f"{name}: {where + ': ' if where else ''}{first['msg']}") from error


def _name(file: str) -> str:
    """`04_kivi-axes.yaml` is kivi-axes: the number is its place in the table."""
    return file.removesuffix(".yaml").partition("_")[2]


def several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One name or several, as several."""
    return () if value is None else (value,) if isinstance(value, str) else value
