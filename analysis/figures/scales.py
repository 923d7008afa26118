"""Axes of bytes, of shares, of scores and of contexts, with round numbers on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kvfrontier.analysis import style as st

Kind = Literal["live", "share16"]


def quality_axis(axes: Axes, limits: tuple[float, float]) -> None:
    """The y-axis from bottom to top; a log scale where these are far apart and up is less."""
    bottom, top = limits
    if bottom > top > 0 and bottom / top > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(round_numbers(top, bottom)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: st.tick(round(value, 10))))


def byte_axis(axes: Axes, kind: Kind, which: Literal["x", "y"]) -> None:
    """Round amounts on an axis whose limits are set."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    axis.set_major_locator(FixedLocator(_powers(low, high) if kind == "live" else round_numbers(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, kind)))


def amount(value: float, kind: Kind) -> str:
    """A share or bytes, as an axis says it: 25%, 8 MiB."""
    if kind == "share16":
        return f"{value * 100:.3g}%"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def _powers(low: float, high: float) -> list[float]:
    """Powers of two inside the limits, at most six."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    if last - first < 1:
        middle = math.sqrt(low * high)
        return [middle]
    step = max(1, math.ceil((last - first) / 5))
    return [2.0**p for p in range(last, first - 1, -step)][::-1]


def round_numbers(low: float, high: float, least: int = 4) -> list[float]:
    """1, 2, 5 times powers of ten inside the limits; powers of ten alone where there are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(1 + i / 10 for i in range(90))):
        found = [d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high]
        if len(found) >= least:
            return found[:: max(1, len(found) // (2 * least - 1))]
    return [low, high]


def logarithmic(contexts: Sequence[int]) -> bool:
    """Whether contexts are better spread by their ratios."""
    return len(contexts) > 2 or (len(contexts) == 2 and contexts[-1] / contexts[0] >= 4)
