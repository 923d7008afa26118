"""How bytes of state and decode time grow with the context, up to the wall: bounded methods are flat, dense is not."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import Drawing
from kvfrontier.analysis.wall import Searched, Wall
from kvfrontier.runners.record import Probe

_WIDTH, _HEIGHT = 9.6, 4.8
#: Inches left free: of the paper's left and of a panel's right, for names.
_LEFT, _NAMES, _BETWEEN = 0.75, 1.25, 0.62


def wall_figure(wall: Wall) -> Drawing | None:
    """Bytes and milliseconds a token against context, a line a method, crossed where memory ended it; None where
    nothing fitted."""
    series = [one for one in wall.methods if one.probes]
    if not series:
        return None
    figure = st.figure(_WIDTH, _HEIGHT)
    panel = (_WIDTH - _LEFT - 2 * _NAMES - _BETWEEN) / 2
    said: list[str] = []
    for i, (title, value, words) in enumerate(_PANELS):
        left = _LEFT + i * (panel + _NAMES + _BETWEEN)
        axes = figure.add_axes((left / _WIDTH, 0.2, panel / _WIDTH, 0.64))
        axes.set_title(title, fontsize=9.5)
        _draw(figure, axes, series, value, words)
        if i == 0:
            said = [f"{one.method} {words(value(one.probes[0]))} to {words(value(one.probes[-1]))}" for one in series]
    figure.text(0.14 / _WIDTH, 0.965, "Up to the wall", fontsize=12.5, fontweight="bold", va="top", color=st.INK[0])
    told = f"{wall.setting.model} on {wall.setting.machine}. {wall.words} Crossed: the longest context that fits."
    foot = "\n".join(textwrap.wrap(told, 150))
    figure.text(0.14 / _WIDTH, 0.1 / _HEIGHT, foot, fontsize=7.6, color=st.MUTED[0], va="bottom", linespacing=1.3)
    return Drawing(figure, f"State: {'; '.join(said)}.")


def _milliseconds(probe: Probe) -> float:
    return (probe.decode or 0.0) * 1e3


_PANELS: tuple[tuple[str, Callable[[Probe], float], Callable[[float], str]], ...] = (
    ("Live bytes of state", lambda p: float(p.state or 0), st.size),
    ("Decode, ms a token", _milliseconds, lambda v: f"{v:.4g} ms"),
)


def _draw(
    figure: Figure,
    axes: Axes,
    series: Sequence[Searched],
    value: Callable[[Probe], float],
    words: Callable[[float], str],
) -> None:
    sizes = sorted({p.size for one in series for p in one.probes})
    doubled = [n for n in sizes if n == sizes[0] or any(abs(n / sizes[0] - 2**k) < 1e-9 for k in range(1, 40))]
    values = [v for one in series for p in one.probes if (v := value(p)) > 0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
    axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(doubled))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=2 if max(values) / min(values) < 40 else 4, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: words(y)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("context (tokens, log scale)")
    for one in series:
        info = one.record.info
        look = st.look(info.family)
        points = [(p.size, value(p)) for p in one.probes if value(p) > 0]
        dense = info.family == "baseline"
        hollow = info.needs_training or info.simulated
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, color=look.light, linewidth=2.4 if dense else 1.5, zorder=4 if dense else 3)
        for x, y in points:
            axes.plot(
                [x], [y], linestyle="none", marker=look.marker, markersize=5.5, zorder=5,
                markerfacecolor=st.PAPER[0] if hollow else look.light,
                markeredgecolor=look.light if hollow else st.PAPER[0], markeredgewidth=1.2 if hollow else 0.7,
            )  # fmt: skip
        if one.hit:
            axes.plot(xs[-1:], ys[-1:], "x", color=st.INK[0], markersize=9, markeredgewidth=1.6, zorder=6)
    _name_ends(figure, axes, series, value)


def _name_ends(figure: Figure, axes: Axes, series: Sequence[Searched], value: Callable[[Probe], float]) -> None:
    """Each line's name on the right, spread so that no two overlap, with a thin line from where it ends."""
    scale = 72 / figure.dpi
    box = axes.get_window_extent()
    ends = [axes.transData.transform((one.probes[-1].size, max(value(one.probes[-1]), 1e-9))) * scale for one in series]
    heights = labels.spread([float(y) for _, y in ends], 11.0, box.y0 * scale + 4, box.y1 * scale - 2)
    for one, (x, y), height in zip(series, ends, heights, strict=True):
        text, start = box.x1 * scale + 12, float(x) + 5
        axes.plot(
            [start / 72, (text - 2) / 72], [float(y) / 72, height / 72], transform=figure.dpi_scale_trans,
            color=st.look(one.record.info.family).light, alpha=0.4, linewidth=0.7, clip_on=False, zorder=1,
        )  # fmt: skip
        last = f"  {one.probes[-1].size:,}" if one.hit else ""
        axes.text(
            text / 72, height / 72, one.method + last, transform=figure.dpi_scale_trans, va="center_baseline",
            fontsize=8, color=st.INK[0] if one.record.info.family == "baseline" else st.MUTED[0], clip_on=False,
        )  # fmt: skip
