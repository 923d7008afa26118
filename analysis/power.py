"""How many samples a paired comparison needs, by the normal approximation: n = (z + z')^2 variance / delta^2.

`variance` is that of the paired differences between two methods on the same samples (Lachin 1981); the errors are the
usual ones: a difference is called at 95% two-sided, and one of delta is to be seen in 80% of such experiments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, variance

from kvfrontier.analysis.stats import MIN_PAIRED

CONFIDENCE = 0.95
POWER = 0.8


def samples_to_tell(spread: float, delta: float, power: float = POWER) -> int:
    """Samples with which a difference of `delta` is told from zero, at least those that are compared at all. `spread`:
    variance of the paired differences."""
    return max(MIN_PAIRED, math.ceil((_z((1 + CONFIDENCE) / 2) + _z(power)) ** 2 * spread / delta**2))


def samples_to_equal(spread: float, margin: float, power: float = POWER) -> int:
    """Samples with which two methods that do not differ are shown to lie within `margin`, by two one-sided tests, each
    at 5%; never fewer than the rule of three asks for (stats.Difference.equivalent)."""
    tests = math.ceil((_z(CONFIDENCE) + _z((1 + power) / 2)) ** 2 * spread / margin**2)
    return max(tests, math.ceil(3 / margin))


def worst_spread(delta: float) -> float:
    """The largest variance of the difference of two right-or-wrong answers that are right delta apart, if being right
    together is no rarer than by chance: both near one half, and independent."""
    return (1 - delta**2) / 2


def measured_spread(differences: Sequence[float]) -> float:
    """The variance of at least two paired differences. Where none differs, n samples leave open that one in n / 3 does
    (the rule of three)."""
    return variance(differences) if len(set(differences)) > 1 else min(0.5, 3 / len(differences))


def _z(share: float) -> float:
    return NormalDist().inv_cdf(share)
