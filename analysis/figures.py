"""The figures: quality against bytes, decode time against context, state bytes against context.

Each is drawn from one board and stands alone: it names its units, its model and its machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Transform

from kvfrontier.analysis import frontier, labels
from kvfrontier.analysis import style as st
from kvfrontier.analysis.rows import FAMILIES, Board, Column, Row

Kind = Literal["live", "share16"]

QUALITY = {
    "agreement": "top-1 agreement with dense attention",
    "perplexity": "perplexity",
    "nll": "negative log-likelihood",
    "kl": "KL divergence from dense attention",
    "accuracy": "accuracy (exact match)",
    "recall": "recall",
}
_BYTES = {"live": "live state after decoding", "share16": "share of dense attention's state, both at 16 bits"}
_DAGGERS = {"needs training": "†", "simulated": "‡", "query-aware": "§", "not matched": "¶"}
#: A method without a cache is drawn at the edge, or in a strip of its own, where it is this many times away.
_FAR = 2.5


@dataclass(frozen=True)
class Drawing:
    """A figure, what it shows in words, and words for each of its points by their id in an SVG."""

    figure: Figure
    words: str
    tips: dict[str, str]


def quality_words(column: Column) -> str:
    """The axis of a column: "needle: accuracy (exact match)"."""
    what = QUALITY.get(column.score, column.score)
    unit = f" ({column.unit})" if column.unit else ""
    aware = ", query-aware" if column.query_aware else ""
    return f"{what}{unit}" if column.task == "perplexity" and not aware else f"{column.title}{aware}: {what}{unit}"


def label(row: Row) -> str:
    """A method's name with the marks of its flags."""
    return row.method + "".join(f" {_DAGGERS[flag]}" for flag in row.flags)


# Quality against bytes


def fronts(board: Board, least: int) -> list[Column]:
    """The scores of which a front can be drawn: the primary ones that at least `least` methods have somewhere."""
    return [column for column in board.headlines if drawable(board, column, "live", least)]


def drawable(board: Board, column: Column, kind: Kind, least: int) -> bool:
    """Whether some context has at least `least` points, or half as many as there are methods."""
    enough = min(least, (len(board.methods) + 1) // 2)
    return any(len(plotted(board.at(c), column, kind)) >= enough for c in board.contexts)


def frontier_figure(board: Board, column: Column, kind: Kind = "live") -> Drawing:
    """One panel a context that has this score, all on the same axes; families in one legend."""
    limits = _Limits.of(board, column, kind)
    across = min(len(limits.contexts), 3)
    down = math.ceil(len(limits.contexts) / across)
    width = {1: 8.2, 2: 10.2, 3: 14.4}[across]
    head, foot, left = 0.74 + 0.22 * (across < 3), 0.36, 0.62
    height = st.PANEL[1] * down + head + foot
    figure = st.figure(width, height)
    cell_width, cell_height = (width - left - 0.1) / across, (height - head - foot) / down
    tips: dict[str, str] = {}
    words = []
    for i, context in enumerate(limits.contexts):
        x = left + (i % across) * cell_width
        y = height - head - (i // across + 1) * cell_height
        box = (x / width, (y + 0.46) / height, (cell_width - 0.32) / width, (cell_height - 0.82) / height)
        shown = _draw_front(figure.add_axes(box), board, column, kind, context, limits, first=i % across == 0)
        tips |= shown.tips
        words.append(shown.words)
    quality = quality_words(column)
    title = f"{quality[0].upper()}{quality[1:]} against {'state bytes' if kind == 'live' else 'share of state'}"
    rows = [r for c in limits.contexts for r in board.at(c)]
    _head(figure, f"{title}: {board.setting.model}", rows, front=True, columns={1: 5, 2: 6, 3: 10}[across])
    _foot(figure, f"{board.setting.machine}. {_interval_words(board, column)} {_flag_words(board)}")
    return Drawing(figure, " ".join(words), tips)


def frontier_panel(board: Board, column: Column, context: int, kind: Kind = "live") -> Drawing:
    """One context alone, without legend, for a page that has one."""
    width, height = 4.3, 4.15
    axes = st.figure(width, height).add_axes((0.62 / width, 0.5 / height, 1 - 0.78 / width, 1 - 0.86 / height))
    return _draw_front(axes, board, column, kind, context, _Limits.of(board, column, kind), first=True)


@dataclass(frozen=True)
class _Limits:
    """What the panels of a figure share: contexts, the sizes that the x-axis must show, and the y-axis' ends."""

    contexts: list[int]
    low: float
    high: float
    quality: tuple[float, float]

    @classmethod
    def of(cls, board: Board, column: Column, kind: Kind) -> _Limits:
        rows = [row for c in board.contexts for row in plotted(board.at(c), column, kind)]
        if not rows:
            raise ValueError(f"nothing has both {column.name} and bytes; there is no front to draw")
        sizes = [_float(_size(row, kind)) for row in rows if not row.uncached]
        sizes = sizes or [_float(_size(row, kind)) for row in rows]
        return cls(sorted({r.context for r in rows}), min(sizes), max(sizes), _quality_limits(rows, column))


def plotted(rows: Sequence[Row], column: Column, kind: Kind) -> list[Row]:
    """Rows with both a finite score and a size."""
    found = []
    for row in rows:
        score, size = row.score(column), _size(row, kind)
        if score is not None and math.isfinite(score.value) and size:
            found.append(row)
    return found


def _size(row: Row, kind: Kind) -> float | None:
    return row.live if kind == "live" else row.memory.share16


def _draw_front(
    axes: Axes, board: Board, column: Column, kind: Kind, context: int, limits: _Limits, *, first: bool
) -> Drawing:
    rows = plotted(board.at(context), column, kind)
    verdicts = frontier.verdicts(board.at(context), column, kind)
    at = {row.method: (_float(_size(row, kind)), score.value) for row in rows if (score := row.score(column))}
    far = {r.method for r in rows if r.uncached and at[r.method][0] * _FAR < limits.low}
    reach = limits.high / limits.low
    left, right = limits.low / reach**0.06 / (1.5 if far else 1.15), limits.high * reach**0.07 * 1.15
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    _quality_axis(axes, limits.quality)
    _byte_axis(axes, kind, "x")
    axes.set_title(f"{context:,} tokens of context")
    axes.set_xlabel(f"{_BYTES[kind]}{' (log scale)' if kind == 'live' else ' (log)'}")
    if first:
        note = "" if column.higher_is_better else " (axis reversed: up is better)"
        axes.set_ylabel(quality_words(column) + note)

    # Dense is the reference: how good it is, and how large.
    crossed = [at[row.method] for row in rows if row.info.family == "baseline" and not row.uncached]
    for x, y in crossed:
        axes.axhline(y, color=st.FRONT[0], linewidth=0.8, linestyle=(0, (1, 2.5)), zorder=1)
        axes.axvline(x, color=st.FRONT[0], linewidth=0.8, linestyle=(0, (1, 2.5)), zorder=1)

    best = sorted((m for m in at if verdicts[m].standing == "front"), key=lambda m: at[m])
    stairs = _stairs([at[m] for m in best], right)
    if stairs:
        xs, ys = zip(*stairs, strict=True)
        axes.plot(xs, ys, color=st.FRONT[0], linewidth=1.4, zorder=2, solid_joinstyle="round")
        axes.fill_between(xs, ys, limits.quality[0], color=st.FRONT[0], alpha=0.07, linewidth=0, zorder=0.5)

    tips, names = {}, []
    for row in rows:
        look = st.look(row.info.family)
        x, y = at[row.method]
        x = left * (right / left) ** 0.022 if row.method in far else x
        score = row.score(column)
        if score and score.low is not None and score.high is not None:
            axes.plot(
                [x, x], [score.low, score.high], color=look.light, alpha=0.45, linewidth=1.3, zorder=3, clip_on=False
            )
        hollow = not row.competes
        gid = f"p-{context}-{len(names)}-{kind}"
        axes.plot(
            [x], [y], gid=gid, linestyle="none", zorder=5, clip_on=False,
            marker="<" if row.method in far else look.marker, markersize=7.2 if look.marker != "D" else 6.2,
            markerfacecolor=st.PAPER[0] if hollow else look.light,
            markeredgecolor=look.light if hollow else st.PAPER[0], markeredgewidth=1.5 if hollow else 0.8,
        )  # fmt: skip
        tips[gid] = _tip(row, column, verdicts[row.method].words)
        text = label(row) + (f", {_amount(_float(_size(row, kind)), kind)}" if row.method in far else "")
        names.append((x, y, text, row.method in best))
    bars = [
        ((at[row.method][0], score.low), (at[row.method][0], score.high))
        for row in rows
        if row.method not in far and (score := row.score(column)) and score.low is not None and score.high is not None
    ]
    bottom, top = limits.quality
    lines = [line for x, y in crossed for line in (((left, y), (right, y)), ((x, bottom), (x, top)))]
    _write_labels(axes, names, [*bars, *lines, *pairwise(stairs)])
    named = ", ".join(best)
    words = f"At {context:,} tokens: {len(rows)} methods; on the Pareto front {named or 'none'}."
    return Drawing(_owner(axes), words, tips)


def _stairs(best: list[tuple[float, float]], right: float) -> list[tuple[float, float]]:
    """The staircase of the best that a byte buys: it holds a method's quality up to the next method's bytes."""
    steps: list[tuple[float, float]] = []
    for x, y in best:
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    return [*steps, (right, steps[-1][1])] if steps else []


def _write_labels(
    axes: Axes,
    names: Sequence[tuple[float, float, str, bool]],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> None:
    """Names beside their points; `lines` (upright or level) are better not written over."""
    canvas = FigureCanvasAgg(_owner(axes))
    scale = 72 / canvas.figure.dpi

    def points(x: float, y: float) -> tuple[float, float]:
        px, py = axes.transData.transform((x, y))
        return float(px) * scale, float(py) * scale

    tags = []
    for x, y, text, bold in names:
        font = FontProperties(family="DejaVu Sans", size=8.5, weight="bold" if bold else "normal")
        width, height, _ = canvas.get_renderer().get_text_width_height_descent(text, font, ismath=False)
        tags.append(labels.Tag(*points(x, y), width * scale, height * scale))
    obstacles = []
    for (x0, y0), (x1, y1) in lines:
        (a, b), (c, d) = points(x0, y0), points(x1, y1)
        obstacles.append((min(a, c) - 0.8, min(b, d) - 0.8, max(a, c) + 0.8, max(b, d) + 0.8))
    box = axes.get_window_extent()
    frame = (box.x0 * scale + 1, box.y0 * scale + 2, box.x1 * scale + 3, box.y1 * scale + 3)
    for (_, _, text, bold), found in zip(names, labels.place(tags, frame, obstacles), strict=True):
        if found.leader:
            xs, ys = zip(*found.leader, strict=True)
            axes.plot(
                [x / 72 for x in xs], [y / 72 for y in ys], transform=_inches(axes), color=st.FRONT[0], linewidth=0.6,
                zorder=4, clip_on=False,
            )  # fmt: skip
        axes.text(
            found.x / 72, found.y / 72, text, transform=_inches(axes), ha="center", va="center_baseline", fontsize=8.5,
            fontweight="bold" if bold else "normal", color=st.INK[0] if bold else st.MUTED[0], zorder=6,
        )  # fmt: skip


def _quality_limits(rows: Sequence[Row], column: Column) -> tuple[float, float]:
    """(bottom, top) so that up is better and intervals fit; the same in every panel. A log scale where bottom and top
    are positive and far apart is for `_quality_axis` to choose."""
    values = []
    for row in rows:
        score = row.score(column)
        if score:
            values += [v for v in (score.value, score.low, score.high) if v is not None and math.isfinite(v)]
    low, high = min(values), max(values)
    if column.higher_is_better:
        room = 0.05 * ((high - low) or abs(high) or 1)
        return low - room, high + room
    if low > 0 and high / low > 8:
        room = (high / low) ** 0.05
        return high * room, low / room
    room = 0.05 * ((high - low) or abs(high) or 1)
    return high + room, low - room


def _quality_axis(axes: Axes, limits: tuple[float, float]) -> None:
    bottom, top = limits
    if bottom > top > 0 and bottom / top > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(_round_numbers(top, bottom)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: st.tick(round(value, 10))))


def _interval_words(board: Board, column: Column) -> str:
    kinds = {s.interval for r in board.rows if (s := r.score(column))}
    if kinds == {"none"}:
        return ""
    names = {"wilson": "Wilson", "bootstrap": "bootstrap"}
    return f"Bars: 95% intervals ({', '.join(names[k] for k in sorted(kinds - {'none'}))})."


def _flag_words(board: Board) -> str:
    flags = {flag for row in board.rows for flag in row.flags}
    return "; ".join(f"{_DAGGERS[f]} {f}" for f in _DAGGERS if f in flags)


def _tip(row: Row, column: Column, verdict: str) -> str:
    score = row.score(column)
    parts = [row.method + (f" ({', '.join(row.flags)})" if row.flags else "")]
    if score:
        between = "" if score.low is None else f" [{st.number(score.low)}, {st.number(score.high)}]"
        parts.append(f"{QUALITY.get(column.score, column.score)} {st.number(score.value)}{between}, n = {score.n}")
    share = row.memory.share16
    parts.append(f"live {st.size(row.live)}" + (f", {share:.1%} of dense at 16 bits" if share is not None else ""))
    if row.seconds_per_token is not None:
        parts.append(f"{st.seconds(row.seconds_per_token)} a token")
    return "\n".join([*parts, verdict])


# Lines against context


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
            axes.set_xlabel("context (tokens, log scale)" if _logarithmic(contexts) else "context (tokens)")
        else:
            axes.tick_params(labelbottom=False)
        if box is main:
            axes.set_ylabel(axis)
    if not page:
        _head(figure, title, [found[0][0] for found in series.values()], front=False, columns=8)
        _foot(figure, f"{board.setting.machine}. {note} {_flag_words(board)}")
    said = "; ".join(f"{m} {words(f[0][1][0])} to {words(f[-1][1][0])}" for m, f in series.items())
    return Drawing(figure, f"From {contexts[0]:,} to {contexts[-1]:,} tokens: {said}.", tips)


def _apart(series: dict[str, list[Any]]) -> tuple[list[str], bool]:
    """Methods without a cache where they are far above or below all others: they get a strip of their own."""
    alone = [m for m, found in series.items() if found[0][0].uncached]
    rest = [v[0] for m, found in series.items() if m not in alone for _, v in found]
    own = [v[0] for m in alone for _, v in series[m]]
    if not rest or not own:
        return [], False
    if min(own) > _FAR * max(rest):
        return alone, True
    return (alone, False) if max(own) * _FAR < min(rest) else ([], False)


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
    if _logarithmic(contexts):
        axes.set_xscale("log")
        axes.set_xlim(contexts[0] / 1.06, contexts[-1] * 1.03)
    else:
        spare_x = (contexts[-1] - contexts[0]) or contexts[0]
        axes.set_xlim(contexts[0] - 0.06 * spare_x, contexts[-1] + 0.04 * spare_x)
    axes.xaxis.set_major_locator(FixedLocator(list(contexts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if kind:
        _byte_axis(axes, kind, "y")
    else:
        axes.yaxis.set_major_locator(FixedLocator(_round_numbers(low / spare, high * spare, 2 if few else 4)))
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
    scale = 72 / _owner(axes).dpi
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
            transform=_inches(axes), color=color, alpha=0.5, linewidth=0.7, clip_on=False, zorder=1,
        )  # fmt: skip
        dense = row.info.family == "baseline" and not row.uncached
        short = f"  to {row.context:,}" if row.context < contexts[-1] else ""
        axes.text(
            text / 72, height / 72, label(row) + short, transform=_inches(axes), va="center_baseline", fontsize=8.5,
            color=st.INK[0] if dense else st.MUTED[0], fontweight="bold" if dense else "normal", clip_on=False,
        )  # fmt: skip


# What all share


def _head(figure: Figure, title: str, rows: Sequence[Row], *, front: bool, columns: int) -> None:
    """The title in one line, and under it the legend: in two lines where it has more than `columns` entries."""
    width, height = figure.get_size_inches()
    figure.text(0.14 / width, 1 - 0.16 / height, title, fontsize=12.5, fontweight="bold", va="top", color=st.INK[0])
    families = sorted(
        {row.info.family for row in rows}, key=lambda f: (FAMILIES.index(f) if f in FAMILIES else len(FAMILIES), f)
    )
    handles = [
        Line2D(
            [], [], linestyle="none", marker=st.look(f).marker, markersize=7, markerfacecolor=st.look(f).light,
            markeredgecolor=st.PAPER[0], label=f,
        )
        for f in families
    ]  # fmt: skip
    if any(not row.competes for row in rows):
        handles.append(
            Line2D(
                [], [], linestyle="none", marker="o", markersize=6.5, markerfacecolor=st.PAPER[0],
                markeredgecolor=st.MUTED[0], markeredgewidth=1.4,
                label="hollow: does not compete" if front else "hollow: needs training or simulated",
            )
        )  # fmt: skip
    if front:
        handles.append(Line2D([], [], color=st.FRONT[0], linewidth=1.4, label="Pareto front (bold names)"))
        handles.append(
            Line2D([], [], color=st.FRONT[0], linewidth=0.9, linestyle=(0, (1, 2.5)), label="dense attention")
        )
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.02 / width, 1 - 0.44 / height), fontsize=9,
        ncols=len(handles) if len(handles) <= columns else math.ceil(len(handles) / 2), handletextpad=0.35,
        columnspacing=1.3, borderaxespad=0.1, labelcolor=st.MUTED[0],
    )  # fmt: skip


def _foot(figure: Figure, words: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(0.14 / width, 0.13 / height, words.strip(), fontsize=8, color=st.MUTED[0], va="bottom")


def _byte_axis(axes: Axes, kind: Kind, which: Literal["x", "y"]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    axis.set_major_locator(FixedLocator(_powers(low, high) if kind == "live" else _round_numbers(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value, kind)))


def _amount(value: float, kind: Kind) -> str:
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


def _round_numbers(low: float, high: float, least: int = 4) -> list[float]:
    """1, 2, 5 times powers of ten inside the limits; powers of ten alone where there are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(1 + i / 10 for i in range(90))):
        found = [d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high]
        if len(found) >= least:
            return found[:: max(1, len(found) // (2 * least - 1))]
    return [low, high]


def _logarithmic(contexts: Sequence[int]) -> bool:
    return len(contexts) > 2 or (len(contexts) == 2 and contexts[-1] / contexts[0] >= 4)


def _inches(axes: Axes) -> Transform:
    """Places on the paper that stay where they are whatever resolution a file is saved with."""
    return _owner(axes).dpi_scale_trans


def _owner(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes belong to no figure")
    return figure


def _float(value: float | None) -> float:
    if value is None:
        raise ValueError("a point without a value was to be drawn")
    return float(value)
