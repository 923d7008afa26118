"""95% intervals of a score: Wilson's for counts of right answers, the bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

_Z = 1.959963984540054  # 97.5% of the standard normal distribution lies below


def wilson(successes: float, n: int, z: float = _Z) -> tuple[float, float]:
    """Interval of a proportion, after Wilson (1927). It never leaves [0, 1], and is of use where all answers are right.

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding would leave 1 - 1e-16 where the bound is 1.
    return (0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half)


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
