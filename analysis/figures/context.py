"""What more context costs: the time of a decoded token and the bytes of state, a line a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import labels
from kvfrontier.analysis.figures.drawing import FAR, Drawing, Foot, Head, inches, label, mark_words, owner
from kvfrontier.analysis.figures.scales import context_axis, logarithmic, size_axis, time_axis
from kvfrontier.analysis.rows import Board, Row

#: (row, (middle, low, high)) at each context.
Series = Sequence[tuple[Row, tuple[float, float, float]]]


def decode_time(board: Board) -> Drawing:
    """Median time of one decoded token against context, with quartiles."""

    def value(row: Row) -> tuple[float, float, float] | None:
        if row.seconds_per_token is None or row.time.decode is None:
            return None
        return row.seconds_per_token * 1e3, row.time.decode.q1 * 1e3, row.time.decode.q3 * 1e3

    return _lines(
        board,
        value,
        title="Decode time against context",
        axis="decode (ms a token, log scale)",
        note="Medians; bars: quartiles",
        words=lambda v: f"{v:.4g} ms a token",
        bytes_=False,
    )


def state_bytes(board: Board) -> Drawing:
    """Live bytes of the state after decoding, against context."""

    def value(row: Row) -> tuple[float, float, float] | None:
        return (float(row.live), float(row.live), float(row.live)) if row.live else None

    return _lines(
        board,
        value,
        title="Bytes of state against context",
        axis="live state after decoding (log scale)",
        note="Payload and slack of the whole state, exact",
        words=lambda v: st.size(v),
        bytes_=True,
    )


def _lines(
    board: Board,
    value: Callable[[Row], tuple[float, float, float] | None],
    *,
    title: str,
    axis: str,
    note: str,
    words: Callable[[float], str],
    bytes_: bool,
) -> Drawing:
    series: dict[str, Series] = {}
    for method in board.methods:
        found = [(row, v) for row in board.of(method) if (v := value(row))]
        if found:
            series[method] = found
    apart, above = _apart(series)
    rows = [found[0][0] for found in series.values()]
    width, side = 8.2, 1.6
    hollow = any(_hollow(row) for row in rows)
    head = Head.of(width, title, rows, hollow="needs training or simulated" if hollow else "")
    foot = Foot.of(width, board, note, mark_words(rows))
    height = 4.9 + head.height + foot.height
    figure = st.figure(width, height)
    left, right = 0.74 / width, 1 - side / width
    bottom = (0.5 + foot.height) / height
    top = 1 - (head.height + 0.05) / height
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
    lowest = min(box[1] for box, _ in boxes)
    contexts = sorted({row.context for found in series.values() for row, _ in found})
    for box, methods in boxes:
        axes = figure.add_axes(box)
        _draw_lines(axes, [series[m] for m in methods], contexts, bytes_=bytes_, few=box is not main)
        axes.spines["bottom"].set_visible(box[1] == lowest)
        if box[1] == lowest:
            axes.set_xlabel("context (tokens, log scale)" if logarithmic(contexts) else "context (tokens)")
        else:
            axes.tick_params(labelbottom=False)
        if box is main:
            axes.set_ylabel(axis)
    head.write(figure)
    foot.write(figure)
    said = "; ".join(f"{m} {words(f[0][1][0])} to {words(f[-1][1][0])}" for m, f in series.items())
    return Drawing(figure, f"From {contexts[0]:,} to {contexts[-1]:,} tokens: {said}.")


def _hollow(row: Row) -> bool:
    return row.info.needs_training or row.info.simulated


def _apart(series: Mapping[str, Series]) -> tuple[list[str], bool]:
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
    series: Sequence[Series],
    contexts: Sequence[int],
    *,
    bytes_: bool,
    few: bool,
) -> None:
    values = [v for found in series for _, triple in found for v in triple]
    low, high = min(values), max(values)
    spare = max((high / low) ** 0.06, 1.12)
    axes.set_yscale("log")
    axes.set_ylim(low / spare, high * spare)
    context_axis(axes, contexts)
    if bytes_:
        size_axis(axes.yaxis, "bytes")
    else:
        time_axis(axes.yaxis, 4 if few else 6)
    for found in series:
        row = found[-1][0]
        look = st.look(row.info.family)
        dense = row.info.family == "baseline" and not row.uncached
        xs, ys = [r.context for r, _ in found], [v[0] for _, v in found]
        axes.plot(xs, ys, color=look.light, linewidth=2.6 if dense else 1.5, alpha=0.95, zorder=4 if dense else 3)
        for r, (y, q1, q3) in found:
            if q3 > q1:
                axes.plot([r.context] * 2, [q1, q3], color=look.light, alpha=0.4, linewidth=3.2, zorder=2)
            hollow = _hollow(row)
            axes.plot(
                [r.context], [y], linestyle="none", marker=look.marker, markersize=look.size * 0.78, zorder=5,
                markerfacecolor=st.PAPER[0] if hollow else look.light,
                markeredgecolor=look.light if hollow else st.PAPER[0], markeredgewidth=1.3 if hollow else 0.7,
            )  # fmt: skip
    _name_ends(axes, series, contexts)


def _name_ends(axes: Axes, series: Sequence[Series], contexts: Sequence[int]) -> None:
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
