"""What more context costs: the time of a decoded token and the bytes of state, a line a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import FAR, Drawing, flag_words, inches, label, owner, write_foot, write_head
from kvfrontier.analysis.figures.scales import Kind, byte_axis, logarithmic, round_numbers
from kvfrontier.analysis.rows import Board, Row


def decode_time(board: Board, *, page: bool = False) -> Drawing:
    """Median time of one decoded token against context, with quartiles."""

    def value(row: Row) -> tuple[float, float, float] | None:
        if row.seconds_per_token is None or row.time.decode is None:
            return None
        return row.seconds_per_token * 1e3, row.time.decode.q1 * 1e3, row.time.decode.q3 * 1e3

    return _lines(
        board,
        value,
        title=f"Time of one decoded token against context: {board.setting.model}",
        axis="time a decoded token (ms, log scale)",
        note="Medians; bars: quartiles.",
        words=lambda v: f"{v:.4g} ms a token",
        kind=None,
        page=page,
    )


def state_bytes(board: Board, *, page: bool = False) -> Drawing:
    """Live bytes of the state after decoding, against context."""

    def value(row: Row) -> tuple[float, float, float] | None:
        return (float(row.live), float(row.live), float(row.live)) if row.live else None

    return _lines(
        board,
        value,
        title=f"Bytes of state against context: {board.setting.model}",
        axis="live state after decoding (log scale)",
        note="Payload and slack of the whole state, exact.",
        words=lambda v: st.size(v),
        kind="live",
        page=page,
    )


def _lines(
    board: Board,
    value: Callable[[Row], tuple[float, float, float] | None],
    *,
    title: str,
    axis: str,
    note: str,
    words: Callable[[float], str],
    kind: Kind | None,
    page: bool,
) -> Drawing:
    series: dict[str, list[tuple[Row, tuple[float, float, float]]]] = {}
    for method in board.methods:
        found = [(row, v) for row in board.of(method) if (v := value(row))]
        if found:
            series[method] = found
    apart, above = _apart(series)
    width, height = (5.3, 4.7) if page else (8.2, 6.0)
    figure = st.figure(width, height)
    head, foot, side = (0.12, 0.0, 1.42) if page else (0.86, 0.34, 1.6)
    left, right = 0.74 / width, 1 - side / width
    bottom, top = (0.52 + foot) / height, 1 - head / height
    strip = 0.17 * (top - bottom) if apart else 0.0
    gap = 0.045 if apart else 0.0
    main = (
        left,
        bottom + (0 if above or not apart else strip + gap),
        right - left,
        top - bottom - strip - (gap if apart else 0),
    )
    boxes = [(main, [m for m in series if m not in apart])]
    if apart:
        boxes.append(((left, top - strip if above else bottom, right - left, strip), apart))
    tips: dict[str, str] = {}
    lowest = min(box[1] for box, _ in boxes)
    contexts = sorted({row.context for found in series.values() for row, _ in found})
    for box, methods in boxes:
        axes = figure.add_axes(box)
        _draw_lines(axes, [series[m] for m in methods], contexts, words, kind, tips, few=box is not main)
        axes.spines["bottom"].set_visible(box[1] == lowest)
        if box[1] == lowest:
            axes.set_xlabel("context (tokens, log scale)" if logarithmic(contexts) else "context (tokens)")
        else:
            axes.tick_params(labelbottom=False)
        if box is main:
            axes.set_ylabel(axis)
    if not page:
        write_head(figure, title, [found[0][0] for found in series.values()], front=False, columns=8)
        write_foot(figure, f"{board.setting.machine}. {note} {flag_words(board)}")
    said = "; ".join(f"{m} {words(f[0][1][0])} to {words(f[-1][1][0])}" for m, f in series.items())
    return Drawing(figure, f"From {contexts[0]:,} to {contexts[-1]:,} tokens: {said}.", tips)


def _apart(series: dict[str, list[Any]]) -> tuple[list[str], bool]:
    """Methods without a cache where they are far above or below all others: they get a strip of their own."""
    alone = [m for m, found in series.items() if found[0][0].uncached]
    rest = [v[0] for m, found in series.items() if m not in alone for _, v in found]
    own = [v[0] for m in alone for _, v in series[m]]
    if not rest or not own:
        return [], False
    if min(own) > FAR * max(rest):
        return alone, True
    return (alone, False) if max(own) * FAR < min(rest) else ([], False)


def _draw_lines(
    axes: Axes,
    series: Sequence[Sequence[tuple[Row, tuple[float, float, float]]]],
    contexts: Sequence[int],
    words: Callable[[float], str],
    kind: Kind | None,
    tips: dict[str, str],
    *,
    few: bool,
) -> None:
    values = [v for found in series for _, triple in found for v in triple]
    low, high = min(values), max(values)
    spare = max((high / low) ** 0.06, 1.12)
    axes.set_yscale("log")
    axes.set_ylim(low / spare, high * spare)
    if logarithmic(contexts):
        axes.set_xscale("log")
        axes.set_xlim(contexts[0] / 1.06, contexts[-1] * 1.03)
    else:
        spare_x = (contexts[-1] - contexts[0]) or contexts[0]
        axes.set_xlim(contexts[0] - 0.06 * spare_x, contexts[-1] + 0.04 * spare_x)
    axes.xaxis.set_major_locator(FixedLocator(list(contexts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if kind:
        byte_axis(axes, kind, "y")
    else:
        axes.yaxis.set_major_locator(FixedLocator(round_numbers(low / spare, high * spare, 2 if few else 4)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: st.tick(value)))
    for found in series:
        row = found[-1][0]
        look = st.look(row.info.family)
        dense = row.info.family == "baseline" and not row.uncached
        xs, ys = [r.context for r, _ in found], [v[0] for _, v in found]
        axes.plot(xs, ys, color=look.light, linewidth=2.6 if dense else 1.5, alpha=0.95, zorder=4 if dense else 3)
        for r, (y, q1, q3) in found:
            if q3 > q1:
                axes.plot([r.context] * 2, [q1, q3], color=look.light, alpha=0.4, linewidth=3.2, zorder=2)
            gid = f"l-{len(tips)}-{'b' if kind else 't'}"
            hollow = row.info.needs_training or row.info.simulated
            axes.plot(
                [r.context], [y], gid=gid, linestyle="none", marker=look.marker, markersize=5.6, zorder=5,
                markerfacecolor=st.PAPER[0] if hollow else look.light,
                markeredgecolor=look.light if hollow else st.PAPER[0], markeredgewidth=1.3 if hollow else 0.7,
            )  # fmt: skip
            tips[gid] = f"{r.method}, {r.context:,} tokens\n{words(y)}"
    _name_ends(axes, series, contexts)


def _name_ends(
    axes: Axes, series: Sequence[Sequence[tuple[Row, tuple[float, float, float]]]], contexts: Sequence[int]
) -> None:
    """Each line's name at its right end, spread so that no two overlap, with a thin line to where it belongs."""
    scale = 72 / owner(axes).dpi
    ends = [axes.transData.transform((found[-1][0].context, found[-1][1][0])) * scale for found in series]
    box = axes.get_window_extent()
    low, high = box.y0 * scale + 4, box.y1 * scale - 2
    crowded = min(11.5, max(8.0, (high - low) / max(len(series) - 1, 1)))
    heights = labels.spread([float(y) for _, y in ends], crowded, low, high)
    for found, (x, y), height in zip(series, ends, heights, strict=True):
        row = found[-1][0]
        color = st.look(row.info.family).light
        start, elbow, text = float(x) + 5, box.x1 * scale + 14, box.x1 * scale + 18
        axes.plot(
            [start / 72, (start + 1) / 72, elbow / 72, (text - 1.5) / 72],
            [float(y) / 72, float(y) / 72, height / 72, height / 72],
            transform=inches(axes), color=color, alpha=0.5, linewidth=0.7, clip_on=False, zorder=1,
        )  # fmt: skip
        dense = row.info.family == "baseline" and not row.uncached
        short = f"  to {row.context:,}" if row.context < contexts[-1] else ""
        axes.text(
            text / 72, height / 72, label(row) + short, transform=inches(axes), va="center_baseline", fontsize=8.5,
            color=st.INK[0] if dense else st.MUTED[0], fontweight="bold" if dense else "normal", clip_on=False,
        )  # fmt: skip
