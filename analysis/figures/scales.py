"""Axes of shares, of bytes, of times and of scores, with round numbers on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter

from kvfrontier.analysis import style as st

#: A share of dense attention's state, both at 16 bits; bytes as run.
Kind = Literal["share", "bytes"]


def quality_axis(axes: Axes, limits: tuple[float, float]) -> None:
    """The y-axis from bottom to top; a log scale where these are far apart and up is less."""
    bottom, top = limits
    if bottom > top > 0 and bottom / top > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(round_numbers(top, bottom)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: st.tick(round(value, 10))))
    else:
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.set_ylim(bottom, top)


def size_axis(axis: Axis, kind: Kind) -> None:
    """Round amounts on a log axis whose limits are set."""
    low, high = sorted(axis.get_view_interval())
    found = _powers(low, high) if kind == "bytes" else round_numbers(low, high, 7)
    _ticks(axis, found, lambda value: amount(value, kind))


def time_axis(axis: Axis, most: int = 6) -> None:
    """Round numbers on a log axis whose limits are set, about `most` of them; a little more of the axis where a round
    number stands just below it."""
    low, high = sorted(axis.get_view_interval())
    found = round_numbers(low * 0.9, high, most)
    axis.set_view_interval(min(low, found[0] * 0.99), high)
    _ticks(axis, found, st.tick)


def context_axis(axes: Axes, contexts: Sequence[int]) -> None:
    """The contexts themselves on the x-axis: spread by their ratios where there are several."""
    if logarithmic(contexts):
        axes.set_xscale("log")
        axes.set_xlim(contexts[0] / 1.06, contexts[-1] * 1.03)
    else:
        spare = (contexts[-1] - contexts[0]) or contexts[0]
        axes.set_xlim(contexts[0] - 0.06 * spare, contexts[-1] + 0.04 * spare)
    _ticks(axes.xaxis, list(contexts), lambda value: f"{value:,.0f}")


def logarithmic(contexts: Sequence[int]) -> bool:
    """Whether contexts are better spread by their ratios."""
    return len(contexts) > 2 or (len(contexts) == 2 and contexts[-1] / contexts[0] >= 4)


def amount(value: float, kind: Kind) -> str:
    """A share or bytes, as an axis says it: 25%, 8 MiB."""
    if kind == "share":
        return f"{value * 100:.3g}%"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def round_numbers(low: float, high: float, most: int = 6) -> list[float]:
    """Numbers that a reader can count by inside the limits of a log axis: over less than a decade equal steps, over
    more 1, 2, 5 or 1, 3 times powers of ten, or these alone."""
    if high / low < 10:
        steps = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
        return [float(v) for v in steps if low <= v <= high and v > 0] or [low, high]
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of two inside the limits, at most six."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    if last - first < 1:
        return [math.sqrt(low * high)]
    step = max(1, math.ceil((last - first) / 5))
    return [2.0**p for p in range(last, first - 1, -step)][::-1]


def _ticks(axis: Axis, values: Sequence[float], words: Callable[[float], str]) -> None:
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
