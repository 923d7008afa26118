"""95% intervals of a score, as its record has them: Wilson's for counts of right answers, Newcombe's for the difference
of two such counts over the same samples, the bootstrap for everything else, whose draws a record's seed decides. Where
a report compares methods, all share one set of draws (analysis/stats.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from kvfrontier.analysis import stats


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Interval of a proportion, as the report has it. Raises ValueError unless 0 <= successes <= n and n >= 1."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    return stats.wilson(successes / n, n)


def newcombe(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Interval of the difference of two proportions over the same samples, first less second, as the report has it.
    Raises ValueError for no samples, for two numbers of them, and for values outside [0, 1]."""
    if not first or not all(0 <= value <= 1 for value in (*first, *second)):
        raise ValueError("a difference of proportions is of values from 0 to 1, and at least of one pair")
    return stats.newcombe(first, second)


def bootstrap(
    values: Sequence[float],
    transform: Callable[[float], float] = float,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of transform(mean of `values`), by resampling the values with replacement.

    `values` must be independent: give one value a sample, or the mean of a block where neighbours are correlated.
    `transform` must be monotone (exp turns a mean loss into a perplexity). Raises ValueError for no values at all.
    """
    if not values:
        raise ValueError("no values to resample")
    x = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    tail = (1 - confidence) / 2
    low, high = (transform(q) for q in np.quantile(x[drawn].mean(axis=1), [tail, 1 - tail]))
    return float(min(low, high)), float(max(low, high))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, Literal["wilson", "bootstrap"]]:
    """Of the mean of `values`, one a sample: Wilson's where all are 0 or 1, else the bootstrap; and which it is."""
    if all(value in (0, 1) for value in values):
        return *wilson(sum(values), len(values)), "wilson"
    return *bootstrap(values, seed=seed), "bootstrap"
