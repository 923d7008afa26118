"""What was measured of each case, and its resamples.

A case's evidence is a list of independent numbers for each *sample set* that it was measured on (questions, blocks of
a text, seeds). Its score is the mean over the sets of the mean within each. Resamples are drawn for a sample set, and
not for a case: two cases on the same samples are resampled together, so that their difference is a paired one, and
cases on other samples (another context) independently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kvfrontier.analysis.stats import MIN_PAIRED, RESAMPLES, units
from kvfrontier.runners.record import Record


@dataclass(frozen=True)
class Evidence:
    """Of one case in one view.

    units    independent numbers by sample set
    higher   whether more is better
    chance   the score of an answer that is guessed; None: not known, or not a score that can be guessed
    share    whether each number is a right or a wrong answer
    problem  why there is no number, where there is none
    """

    units: Mapping[str, Sequence[float]]
    higher: bool = True
    chance: float | None = None
    share: bool = False
    problem: str = ""

    @property
    def n(self) -> int:
        return sum(map(len, self.units.values()))

    @property
    def value(self) -> float:
        """The score, as it was measured."""
        return float(np.mean([np.mean(values) for values in self.units.values()]))

    def resampled(self) -> np.ndarray:
        """[RESAMPLES] scores, on samples drawn again."""
        return np.mean([_draws(key, len(values)) @ np.asarray(values) for key, values in self.units.items()], axis=0)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95%, by bootstrap; None for too few numbers to say."""
        if min(map(len, self.units.values())) < MIN_PAIRED:
            return None
        low, high = np.quantile(self.resampled(), [0.025, 0.975]).tolist()
        return low, high


def missing(problem: str) -> Evidence:
    """Evidence that is not there, and why."""
    return Evidence({}, problem=problem)


def of_records(records: Sequence[Record], score: str | None) -> Evidence:
    """The evidence of a case's records, one a cell; pooled over its tasks and seeds."""
    found: dict[str, list[float]] = {}
    higher, chance, share = True, None, False
    for record in records:
        quality = record.quality
        if quality.status != "ok":
            reason = next(iter(quality.reason.splitlines()), "")[:200]
            return missing(f"{record.info.label}: {quality.status}{f': {reason}' if reason else ''}")
        name = score or quality.primary
        if name not in quality.scores:
            return missing(f"{record.info.label}: {quality.task} has no score {name!r}")
        numbers = units(quality, name)
        if numbers is None:
            return missing(f"{record.info.label}: the record holds no single results of {quality.task}")
        higher, chance = quality.scores[name].higher_is_better, quality.chance
        share = quality.scores[name].interval == "wilson"
        # The context is no part of the sample set where the task's samples do not depend on it.
        found[f"{quality.task_hash} {quality.sample_set} {record.cell.context}"] = numbers
    return Evidence(found, higher, chance, share)


@lru_cache(maxsize=16)
def _draws(key: str, n: int) -> np.ndarray:
    """[RESAMPLES, n] how often each of n numbers of a sample set is drawn, over n: the same for the same set."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
