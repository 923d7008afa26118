"""Intervals and ranks. One rule for ranks: 1 + the number of methods that are significantly better, by a paired
bootstrap at 95% on equal sample sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kvfrontier.runners.record import Quality

RESAMPLES = 5000
#: A method loses nothing only where the difference from dense is shown to lie within this, of scores that are shares.
MARGIN = 0.02
#: Below this, dense attention's own share of right answers says that the model cannot do the task.
FLOOR = 0.2
MIN_PAIRED = 5
_Z = 1.959963984540054  # 97.5% of the standard normal distribution lies below

#: What a score is the mean (or a monotone function of the mean) of, sample by sample, where the names differ.
_UNIT_OF = {"accuracy": "correct", "perplexity": "nll"}

#: What a score is the difference of, sample by sample, where its interval is Newcombe's: the first less the second.
DIFFERENCE_OF = {"drop": ("first", "later")}

#: Results of one method: for each sample set, one number a sample, in the samples' order.
Results = Mapping[str, Sequence[float]]


def units(quality: Quality, score: str) -> list[float] | None:
    """The independent numbers behind a score, one a sample or one a block of neighbouring tokens; None where the
    record does not hold them."""
    key = _UNIT_OF.get(score, score)
    found: list[float] = []
    for sample in quality.samples:
        if key in sample.get("blocks", {}):
            found += map(float, sample["blocks"][key])
        elif key in sample:
            found.append(float(sample[key]))
        else:
            return None
    return found or None


def wilson(proportion: float, n: int) -> tuple[float, float]:
    """95% interval of a proportion over n samples, after Wilson (1927). It never leaves [0, 1], and is of use where all
    answers are right."""
    center = (proportion + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(proportion * (1 - proportion) / n + _Z * _Z / (4 * n * n))
    # Rounding would leave 1 - 1e-16 where the bound is 1.
    return (0.0 if proportion == 0 else center - half, 1.0 if proportion == 1 else center + half)


def newcombe(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """95% interval of mean(first) - mean(second), two proportions over the same samples: Newcombe's square-and-add of
    their Wilson intervals, with the correlation of the pairs (Statistics in Medicine 17, 1998, 2635-2650, method 10).

    first, second  one value a sample, 0 or 1. Shares between them vary less than such answers do, so that their
                   interval is a wide one

    Where few samples are all alike it still has a width, which the bootstrap's has not.
    """
    n, products = len(first), sum(x * y for x, y in zip(first, second, strict=True))
    a, b = sum(first), sum(second)
    p, q = a / n, b / n
    (p_low, p_high), (q_low, q_high) = wilson(p, n), wilson(q, n)
    # ad - bc of the fourfold table, with the paper's correction of n / 2: few pairs say little of a correlation.
    concordance = n * products - a * b
    concordance = max(concordance - n / 2, 0.0) if concordance > 0 else concordance
    margins = a * (n - a) * b * (n - b)
    phi = max(-1.0, concordance / math.sqrt(margins)) if margins > 1e-9 else 0.0

    def added(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    return p - q - added(p - p_low, q_high - q), p - q + added(p_high - p, q - q_low)


def bootstrap(values: Sequence[float], transform: Callable[[float], float] = float) -> tuple[float, float]:
    """95% percentile interval of transform(mean); `transform` is monotone."""
    low, high = (transform(float(q)) for q in np.quantile(_resampled_means(values), [0.025, 0.975]))
    return min(low, high), max(low, high)


@dataclass(frozen=True)
class Difference:
    """Mean of n paired differences, more is better, by a paired bootstrap: the interval of 95%, and of 90%, whose ends
    are those of two one-sided tests at 5%."""

    n: int
    mean: float
    low: float
    high: float
    low90: float
    high90: float

    @property
    def separable(self) -> bool:
        """Whether it can be told from zero."""
        return self.low > 0 or self.high < 0

    def equivalent(self, margin: float = MARGIN) -> bool:
        """Whether it is shown to lie within the margin, both ways (two one-sided tests, Schuirmann 1987).

        A loss that none of the n samples shows could still be one in n / 3 (the rule of three), however alike those
        samples are, so that fewer than 3 / margin of them show nothing.
        """
        return self.n >= 3 / margin and -margin < self.low90 and self.high90 < margin


def floor(dense: float, chance: float | None) -> float | None:
    """The score that dense attention misses where the model itself cannot do the task: twice what guessing scores, at
    least FLOOR. None where it reaches it, and for scores that nobody can guess (`chance` None)."""
    if chance is None:
        return None
    least = max(2 * chance, FLOOR)
    return least if dense < least else None


class Comparison:
    """Which of several methods is significantly better than which, at one context and in one column.

    results   method -> its results by sample set
    higher    whether more is better

    Two methods are compared on the sample sets that both have; `better` and `difference` are None where these hold
    fewer than MIN_PAIRED samples, since so few resamples say nothing.
    """

    def __init__(self, results: Mapping[str, Results], *, higher: bool = True) -> None:
        self._results = results
        self._sign = 1.0 if higher else -1.0

    def better(self, a: str, b: str) -> bool | None:
        """Whether a is better than b beyond noise: 97.5% of the resampled mean differences are above zero."""
        found = self.difference(a, b)
        return None if found is None else found.low > 0

    def difference(self, a: str, b: str) -> Difference | None:
        """How much better a is than b, on the samples that both have; None for fewer than MIN_PAIRED."""
        values = self.paired(a, b)
        if len(values) < MIN_PAIRED:
            return None
        low, low90, high90, high = np.quantile(_resampled_means(values), [0.025, 0.05, 0.95, 0.975]).tolist()
        return Difference(len(values), sum(values) / len(values), low, high, low90, high90)

    def paired(self, a: str, b: str) -> list[float]:
        """a's result less b's of every sample that both have, the sign such that more is better."""
        ours, theirs = self._results.get(a, {}), self._results.get(b, {})
        shared = sorted(s for s in ours if len(ours[s]) == len(theirs.get(s, ())))
        return [self._sign * (x - y) for s in shared for x, y in zip(ours[s], theirs[s], strict=True)]

    def ranks(self) -> dict[str, int]:
        """1 + the number of methods that are significantly better. A method that can be compared with no other has
        no rank."""
        names = list(self._results)
        ranks = {}
        for name in names:
            verdicts = [self.better(other, name) for other in names if other != name]
            if any(v is not None for v in verdicts):
                ranks[name] = 1 + sum(v is True for v in verdicts)
        return ranks


def _resampled_means(values: Sequence[float]) -> np.ndarray:
    """[RESAMPLES] means; the same resamples for the same number of values."""
    return _draws(len(values)) @ np.asarray(values, dtype=float)


@lru_cache(maxsize=8)
def _draws(n: int) -> np.ndarray:
    """[RESAMPLES, n] how often each of n values is drawn, over n."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
