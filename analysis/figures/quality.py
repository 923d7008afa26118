"""Quality against what the state costs: a panel a context, with the Pareto front as a staircase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from kvfrontier.analysis import frontier
from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import FAR, Drawing, Foot, Head, inches, label, mark_words, owner
from kvfrontier.analysis.figures.scales import Kind, quality_axis, size_axis
from kvfrontier.analysis.rows import Board, Column, Row
from kvfrontier.runners.record import Score

QUALITY = {
    "agreement": "top-1 agreement with dense attention",
    "perplexity": "perplexity",
    "nll": "negative log-likelihood",
    "kl": "KL divergence from dense attention",
    "accuracy": "accuracy (exact match)",
    "recall": "recall",
}
#: What the x-axis of a front can be, the usual one first.
KINDS: dict[Kind, str] = {"share": "share of state", "bytes": "bytes of state"}
#: What stands at its x-axis.
SIZES: dict[Kind, str] = {
    "share": "state at seal, of dense attention's, both at 16 bits (log scale)",
    "bytes": "state when the last token was scored, as run (log scale)",
}
_DOTTED = (0, (1, 2.5))


def score_words(column: Column) -> str:
    """What a score is, with its unit: "KL divergence from dense attention (nats)"."""
    return QUALITY.get(column.score, column.score) + (f" ({column.unit})" if column.unit else "")


def quality_words(column: Column) -> str:
    """A score with its task, unless that is the one of perplexity: "needle: accuracy (exact match)"."""
    aware = ", query-aware" if column.query_aware else ""
    plain = column.task == "perplexity" and column.title == column.task and not aware
    return score_words(column) if plain else f"{column.title}{aware}: {score_words(column)}"


def fronts(board: Board, least: int) -> list[Column]:
    """The scores of which a front can be drawn: the primary ones that at least `least` methods have somewhere."""
    return [c for c in board.headlines if any(drawable(board, c, kind, least) for kind in KINDS)]


def drawable(board: Board, column: Column, kind: Kind, least: int) -> bool:
    """Whether some context has at least `least` points, or half as many as there are methods."""
    enough = min(least, (len(board.methods) + 1) // 2)
    return any(len(plotted(board.at(c), column, kind)) >= enough for c in board.contexts)


def plotted(rows: Sequence[Row], column: Column, kind: Kind) -> list[Row]:
    """Rows with both a finite score and a size."""
    return [spot.row for row in rows if (spot := spot_of(row, column, kind))]


def frontier_figure(board: Board, column: Column, kind: Kind = "share") -> Drawing:
    """One panel a context that has this score, all on the same axes; families in one legend."""
    limits = _Limits.of(board, column, kind)
    across = min(len(limits.contexts), 3)
    down = math.ceil(len(limits.contexts) / across)
    width = {1: 8.2, 2: 10.2, 3: 14.4}[across]
    quality = quality_words(column)
    title = f"{quality[0].upper()}{quality[1:]} against {KINDS[kind]}"
    rows = [row for context in limits.contexts for row in plotted(board.at(context), column, kind)]
    head = Head.of(width, title, rows, _entries(rows, column, kind), _hollow(rows))
    foot = Foot.of(width, board, _interval_words(rows, column), _fallback(rows, column), mark_words(rows, column))
    left = 0.62
    height = st.PANEL[1] * down + head.height + foot.height
    figure = st.figure(width, height)
    cell_width, cell_height = (width - left - 0.1) / across, (height - head.height - foot.height) / down
    words = []
    for i, context in enumerate(limits.contexts):
        x = left + (i % across) * cell_width
        y = height - head.height - (i // across + 1) * cell_height
        box = (x / width, (y + 0.5) / height, (cell_width - 0.32) / width, (cell_height - 0.82) / height)
        axes = figure.add_axes(box)
        words.append(_draw_front(axes, board, column, kind, context, limits, first=i % across == 0))
    head.write(figure)
    foot.write(figure)
    return Drawing(figure, " ".join(words))


@dataclass(frozen=True)
class Spot:
    """Where a row stands: its size, and to what it had grown when the last token was scored; its score. `aside`: a
    text, not a cache, whose size does not stretch the axis."""

    row: Row
    x: float
    grown: float
    score: Score
    aside: bool

    @property
    def y(self) -> float:
        return self.score.value


def spot_of(row: Row, column: Column, kind: Kind) -> Spot | None:
    """Where a row stands in a front; None where its score is not finite, or its size is not known."""
    score, held = row.score(column), row.held(column)
    size = held.share if kind == "share" else held.final
    if score is None or not math.isfinite(score.value) or not size:
        return None
    aside = row.uncached or (kind == "share" and row.external)
    grown = size * (row.grew(column) or 1) if kind == "share" and not aside else size
    return Spot(row, float(size), float(grown), score, aside)


@dataclass(frozen=True)
class _Limits:
    """What the panels of a figure share: contexts, the sizes that the x-axis must show, and the y-axis' ends."""

    contexts: list[int]
    low: float
    high: float
    quality: tuple[float, float]

    @classmethod
    def of(cls, board: Board, column: Column, kind: Kind) -> _Limits:
        spots = [one for row in board.rows if (one := spot_of(row, column, kind))]
        if not spots:
            raise ValueError(f"nothing has both {column.name} and a size of state; there is no front to draw")
        sized = [spot for spot in spots if not spot.aside] or spots
        low, high = min(s.x for s in sized), max(s.grown for s in sized)
        contexts = sorted({spot.row.context for spot in spots})
        return cls(contexts, low, high, _quality_limits([spot.score for spot in spots], column))


def _draw_front(
    axes: Axes, board: Board, column: Column, kind: Kind, context: int, limits: _Limits, *, first: bool
) -> str:
    """Draws one context, and tells it."""
    spots = [spot for row in board.at(context) if (spot := spot_of(row, column, kind))]
    verdicts = frontier.verdicts(board.at(context), column, kind)
    far = {s.row.method for s in spots if s.aside and s.x * FAR < limits.low}
    reach = limits.high / limits.low
    left, right = limits.low / reach**0.06 / (1.5 if far else 1.15), limits.high * reach**0.07 * 1.15
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    quality_axis(axes, limits.quality)
    size_axis(axes.xaxis, kind)
    axes.set_title(f"{context:,} tokens of context")
    axes.set_xlabel(SIZES[kind])
    if first:
        axes.set_ylabel(score_words(column) + ("" if column.higher_is_better else " (axis reversed: up is better)"))

    # Dense is the reference: how good it is, and how large.
    crossed = [(s.x, s.y) for s in spots if s.row.info.family == "baseline" and not s.row.uncached]
    for x, y in crossed:
        axes.axhline(y, color=st.FRONT[0], linewidth=0.8, linestyle=_DOTTED, zorder=1)
        axes.axvline(x, color=st.FRONT[0], linewidth=0.8, linestyle=_DOTTED, zorder=1)

    best = sorted((s for s in spots if verdicts[s.row.method].standing == "front"), key=lambda s: (s.x, s.y))
    stairs = _stairs([(s.x, s.y) for s in best], right)
    if stairs:
        xs, ys = zip(*stairs, strict=True)
        axes.plot(xs, ys, color=st.FRONT[0], linewidth=1.4, zorder=2, solid_joinstyle="round")
        axes.fill_between(xs, ys, limits.quality[0], color=st.FRONT[0], alpha=0.07, linewidth=0, zorder=0.5)

    names, bars = [], []
    for spot in spots:
        row, score, look = spot.row, spot.score, st.look(spot.row.info.family)
        is_far = row.method in far
        x = left * (right / left) ** 0.022 if is_far else spot.x
        if score.low is not None and score.high is not None:
            bars.append(((x, score.low), (x, score.high)))
            axes.plot(
                [x, x], [score.low, score.high], color=look.light, alpha=0.45, linewidth=1.3, zorder=3, clip_on=False
            )
        if spot.grown > spot.x:
            bars.append(((x, spot.y), (spot.grown, spot.y)))
            axes.plot([x, spot.grown], [spot.y] * 2, color=look.light, alpha=0.45, linewidth=1.1, zorder=3)
            axes.plot([spot.grown], [spot.y], color=look.light, alpha=0.6, marker=">", markersize=3.4, zorder=3)
        hollow = verdicts[row.method].standing == "reference"
        axes.plot(
            [x], [spot.y], linestyle="none", zorder=5 + (row.info.family == "baseline"), clip_on=False,
            marker="<" if is_far else look.marker, markersize=look.size,
            markerfacecolor=st.PAPER[0] if hollow else look.light,
            markeredgecolor=look.light if hollow else st.PAPER[0], markeredgewidth=1.5 if hollow else 0.8,
        )  # fmt: skip
        about = "" if row.held(column).own else "≈"
        size = st.percent(spot.x) if kind == "share" else st.size(spot.x)
        text = label(row, column) + (f", {about}{size}" if is_far else about and f" {about}")
        names.append((x, spot.y, text, spot in best))
    bottom, top = limits.quality
    cross = [line for x, y in crossed for line in (((left, y), (right, y)), ((x, bottom), (x, top)))]
    heads = [(s.grown, s.y) for s in spots if s.grown > s.x]
    _write_labels(axes, names, [*bars, *cross, *pairwise(stairs)], heads)
    named = ", ".join(s.row.method for s in best)
    return f"At {context:,} tokens: {len(spots)} methods; on the Pareto front {named or 'none'}."


def _entries(rows: Sequence[Row], column: Column, kind: Kind) -> list[Line2D]:
    """What a legend says besides the families."""
    front = Line2D([], [], color=st.FRONT[0], linewidth=1.4, label="Pareto front (bold names)")
    dense = Line2D([], [], color=st.FRONT[0], linewidth=0.9, linestyle=_DOTTED, label="dense attention")
    grown = Line2D(
        [], [], color=st.MUTED[0], alpha=0.7, linewidth=1.1, marker=">", markersize=3.4, markevery=[1],
        label="grew to this while scored",
    )  # fmt: skip
    return [front, dense, *([grown] if kind == "share" and any(row.grew(column) for row in rows) else [])]


def _hollow(rows: Sequence[Row]) -> str:
    return "does not compete" if any(not row.competes for row in rows) else ""


def _fallback(rows: Sequence[Row], column: Column) -> str:
    """What ≈ beside a name means, where one has it."""
    if all(row.held(column).own for row in rows):
        return ""
    return "≈ size of the memory pass, whose prompt is longer than the task's"


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
    heads: Sequence[tuple[float, float]],
) -> None:
    """Names beside their points; `lines` (upright or level) are better not written over, arrowheads much better."""
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
    for x, y in (points(*head) for head in heads):
        obstacles += [(x - 3, y - 3, x + 3, y + 3)] * 3
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


def _quality_limits(scores: Sequence[Score], column: Column) -> tuple[float, float]:
    """(bottom, top) so that up is better and intervals fit; the same in every panel. A log scale where bottom and top
    are positive and far apart is for `quality_axis` to choose."""
    values = [v for s in scores for v in (s.value, s.low, s.high) if v is not None and math.isfinite(v)]
    low, high = min(values), max(values)
    if column.higher_is_better:
        room = 0.05 * ((high - low) or abs(high) or 1)
        return low - room, high + room
    if low > 0 and high / low > 8:
        room = (high / low) ** 0.05
        return high * room, low / room
    room = 0.05 * ((high - low) or abs(high) or 1)
    return high + room, low - room


def _interval_words(rows: Sequence[Row], column: Column) -> str:
    kinds = {s.interval for row in rows if (s := row.score(column))} - {"none"}
    names = {"wilson": "Wilson", "newcombe": "Newcombe", "bootstrap": "bootstrap"}
    return f"Bars: 95% intervals ({', '.join(names[k] for k in sorted(kinds))})" if kinds else ""


def tip(row: Row, column: Column, verdict: str) -> str:
    """What a point is, a line a fact."""
    score, held, grew = row.score(column), row.held(column), row.grew(column)
    flags = row.flags_in(column)
    parts = [row.method + (f" ({', '.join(flags)})" if flags else "")]
    if score:
        between = "" if score.low is None else f" [{st.number(score.low)}, {st.number(score.high)}]"
        parts.append(f"{QUALITY.get(column.score, column.score)} {st.number(score.value)}{between}, n = {score.n}")
    where = "" if held.own else " in the memory pass"
    if held.share is not None:
        parts.append(f"{st.percent(held.share)} of dense at seal, 16 bits{where}")
    if held.final is not None:
        more = f", grown {st.growth(grew)}" if grew else ""
        parts.append(f"{st.size(held.final)} when scored, as run{where}{more}")
    if row.seconds_per_token is not None:
        parts.append(f"decode {st.seconds(row.seconds_per_token)} a token")
    return "\n".join([*parts, verdict])
