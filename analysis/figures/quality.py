"""Quality against what the state costs: a panel a context, with the Pareto front as a staircase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties

from kvfrontier.analysis import frontier
from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import FAR, Drawing, flag_words, inches, label, owner, write_foot, write_head
from kvfrontier.analysis.figures.scales import Kind, amount, byte_axis, quality_axis
from kvfrontier.analysis.rows import Board, Column, Row

QUALITY = {
    "agreement": "top-1 agreement with dense attention",
    "perplexity": "perplexity",
    "nll": "negative log-likelihood",
    "kl": "KL divergence from dense attention",
    "accuracy": "accuracy (exact match)",
    "recall": "recall",
}
_BYTES = {"live": "live state after decoding", "share16": "share of dense attention's state, both at 16 bits"}


def quality_words(column: Column) -> str:
    """The axis of a column: "needle: accuracy (exact match)"."""
    what = QUALITY.get(column.score, column.score)
    unit = f" ({column.unit})" if column.unit else ""
    aware = ", query-aware" if column.query_aware else ""
    return f"{what}{unit}" if column.task == "perplexity" and not aware else f"{column.title}{aware}: {what}{unit}"


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
    write_head(figure, f"{title}: {board.setting.model}", rows, front=True, columns={1: 5, 2: 6, 3: 10}[across])
    write_foot(figure, f"{board.setting.machine}. {_interval_words(board, column)} {flag_words(board)}")
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
    far = {r.method for r in rows if r.uncached and at[r.method][0] * FAR < limits.low}
    reach = limits.high / limits.low
    left, right = limits.low / reach**0.06 / (1.5 if far else 1.15), limits.high * reach**0.07 * 1.15
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    quality_axis(axes, limits.quality)
    byte_axis(axes, kind, "x")
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
        text = label(row) + (f", {amount(_float(_size(row, kind)), kind)}" if row.method in far else "")
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
    return Drawing(owner(axes), words, tips)


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
    canvas = FigureCanvasAgg(owner(axes))
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
                [x / 72 for x in xs], [y / 72 for y in ys], transform=inches(axes), color=st.FRONT[0], linewidth=0.6,
                zorder=4, clip_on=False,
            )  # fmt: skip
        axes.text(
            found.x / 72, found.y / 72, text, transform=inches(axes), ha="center", va="center_baseline", fontsize=8.5,
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


def _interval_words(board: Board, column: Column) -> str:
    kinds = {s.interval for r in board.rows if (s := r.score(column))}
    if kinds == {"none"}:
        return ""
    names = {"wilson": "Wilson", "bootstrap": "bootstrap"}
    return f"Bars: 95% intervals ({', '.join(names[k] for k in sorted(kinds - {'none'}))})."


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


def _float(value: float | None) -> float:
    if value is None:
        raise ValueError("a point without a value was to be drawn")
    return float(value)
