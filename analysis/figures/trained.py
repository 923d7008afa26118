"""Recall against state: what a trained model still finds, over the bytes that its state was measured to hold."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import lines
from kvfrontier.analysis.trained import Track, Trained

WIDTH, HEIGHT = 7.6, 5.2


def recall_figure(track: Track) -> tuple[Figure, str] | None:
    """A figure and what it shows in words: mean score over the tests against measured bytes of state; sizes of one
    method are joined. None where fewer than two rows have a score."""
    points: dict[str, list[tuple[float, float, Trained]]] = defaultdict(list)
    for row in track.rows:
        value = row.mean(track.tests)
        if value is not None and row.state:
            points[row.info.label].append((row.state, value, row))
    if sum(map(len, points.values())) < 2:
        return None
    figure = st.figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.09, 0.17, 0.72, 0.73))
    axes.set_xscale("log", base=2)
    ends: list[tuple[str, float, float, str]] = []
    for name, found in points.items():
        found.sort(key=lambda point: point[0])
        look = st.look(found[0][2].info.family)
        xs, ys = [x for x, _, _ in found], [y for _, y, _ in found]
        axes.plot(xs, ys, color=look.light, linewidth=1.4, alpha=0.7, zorder=3)
        for x, y, _ in found:
            axes.plot(
                [x], [y], linestyle="none", marker=look.marker, markersize=look.size, zorder=5,
                markerfacecolor=look.light, markeredgecolor=st.PAPER[0], markeredgewidth=0.7,
            )  # fmt: skip
        ends.append((name, xs[-1], ys[-1], look.light))
    if track.higher_is_better:
        axes.set_ylim(-0.03, 1.04)
        if track.chance:
            guess = sum(track.chance.values()) / len(track.chance)
            axes.axhline(guess, color=st.MUTED[0], linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
            axes.annotate(
                "a guess", (axes.get_xlim()[0], guess), xytext=(4, 3), textcoords="offset points", fontsize=8,
                color=st.MUTED[0],
            )  # fmt: skip
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: st.size(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("state of one text, measured (log scale)")
    axes.set_ylabel(f"{track.primary}, mean of {len(track.tests)} tests")
    figure.canvas.draw_idle()
    places = [axes.transData.transform((x, y)) * 72 / figure.dpi for _, x, y, _ in ends]
    box = axes.get_window_extent()
    low, high = box.y0 * 72 / figure.dpi, box.y1 * 72 / figure.dpi
    heights = labels.spread([float(y) for _, y in places], 11.0, low + 2, high - 2)
    for (name, _, _, colour), (x, y), height in zip(ends, places, heights, strict=True):
        text = box.x1 * 72 / figure.dpi + 10
        figure.add_artist(
            Line2D(
                [(float(x) + 5) / 72, (text - 2) / 72], [float(y) / 72, height / 72],
                transform=figure.dpi_scale_trans, color=colour, alpha=0.35, linewidth=0.7,
            )
        )  # fmt: skip
        figure.text(
            text / 72, height / 72, name, transform=figure.dpi_scale_trans, va="center_baseline", fontsize=8,
            color=st.INK[0],
        )  # fmt: skip
    title = f"{track.task}: {track.primary} against the measured size of the state"
    figure.text(0.02, 0.97, title, fontsize=12, fontweight="bold", va="top", color=st.INK[0])
    tests = " / ".join(test.name for test in track.tests)
    foot = f"{track.model} trained with each method on {track.setting.machine}. Tests, by tokens of a text: {tests}."
    figure.text(0.02, 0.015, "\n".join(lines(foot, 8, WIDTH - 0.3)), fontsize=8, va="bottom", color=st.MUTED[0])
    words = "; ".join(
        f"{row.method} ({row.model}) {st.number(y)} at {st.size(x)}" for found in points.values() for x, y, row in found
    )
    return figure, f"{title}. {words}."
