"""Published figures about allocators, simulated again, and a verdict that is computed.

A figure is a YAML of configs/allocation:

    source, claim   where it stands, and what it says in words
    words           the cases, as for `kvfrontier allocate`, without a seed
    seeds           traffic is drawn anew from each
    published       the share of memory that holds tokens, by policy
    tolerance       of a published share, by which ours may be off
    assumptions     what differs from what was published, or is not known of it
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from kvfrontier.runners.allocators import words
from kvfrontier.runners.allocators.rows import row
from kvfrontier.runners.errors import UsageError, unknown

_FOLDER = files("kvfrontier.configs").joinpath("allocation")

Verdict = Literal["holds", "holds in direction", "fails"]
RULE = (
    "holds: the policies come in the published order from every seed, and every mean share is within {tolerance:.0%} "
    "of the published one; holds in direction: the order alone; else it fails"
)


class Figure(BaseModel):
    """One published figure, as its YAML says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    claim: str
    words: tuple[str, ...]
    seeds: tuple[int, ...] = Field(min_length=1)
    published: dict[str, float]
    tolerance: float = Field(gt=0, lt=1)
    assumptions: tuple[str, ...]


class Compared(BaseModel):
    """One policy: the published share of memory that holds tokens, and ours from each seed."""

    policy: str
    published: float
    ours: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.ours) / len(self.ours)

    def is_near(self, tolerance: float) -> bool:
        """Whether our mean is off by no more than this share of the published one."""
        return abs(self.mean - self.published) <= tolerance * self.published


def names() -> list[str]:
    """The figures that there are."""
    found = [file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml")]
    return sorted(name.replace("_", "-") for name in found)


def figure(name: str) -> Figure:
    """One figure. Raises UsageError, with the nearest name, where there is none of this name."""
    if name not in names():
        raise unknown("figure", name, names())
    text = _FOLDER.joinpath(f"{name.replace('-', '_')}.yaml").read_text(encoding="utf-8")
    return Figure(name=name, **yaml.safe_load(text))


def compare(published: Figure, changed: Sequence[str] = ()) -> list[Compared]:
    """Our shares beside the published ones, least first. `changed` are words that replace the figure's own; raises
    UsageError where they leave other cases than one of each policy."""
    ours: dict[str, list[float]] = {policy: [] for policy in published.published}
    for seed in published.seeds:
        cases = words.read([*published.words, *changed, f"seed={seed}"])
        if sorted(case.policy for case in cases) != sorted(ours):
            raise UsageError(
                f"{published.name} is one case each of {', '.join(ours)}; change no policy, and give a key one value"
            )
        for case in cases:
            ours[case.policy].append(row(case)["tokens_share"])
    found = [Compared(policy=name, published=share, ours=tuple(ours[name]))
             for name, share in published.published.items()]  # fmt: skip
    return sorted(found, key=lambda one: one.published)


def verdict(compared: Sequence[Compared], tolerance: float) -> Verdict:
    """By RULE, of policies in the published order."""
    in_order = all(a < b for one, next_one in pairwise(compared) for a, b in zip(one.ours, next_one.ours, strict=True))
    if not in_order:
        return "fails"
    return "holds" if all(one.is_near(tolerance) for one in compared) else "holds in direction"
