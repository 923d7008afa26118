"""A trace: what memory held, step by step, while a text was read and written; as data and as a picture.

A step is one chunk of the prompt, the seal, or one decoded token.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures import Drawing
from kvfrontier.runners.record import Block, Cell, Environment, Parts

#: Parts from the bottom of the picture to its top, with what they are called and their colours.
BANDS = {
    "weights": ("weights", "#aeb6c2"),
    "state": ("state", st.LOOKS["selection"].light),
    "slack": ("state, unused", "#8cc3ea"),
    "host": ("state on the host", st.LOOKS["segments"].light),
    "logits": ("logits", st.LOOKS["retrieval"].light),
    "activations": ("activations", st.LOOKS["store"].light),
    "workspace": ("workspace", st.LOOKS["recurrent"].light),
}
#: Of the picture's height, what weights take where they would leave no room for the rest.
_FLOOR = 0.14

Phase = Literal["prefill", "seal", "decode"]


class Step(Block):
    """One step: tokens seen when it ended, what memory was made of at its peak, and at rest afterwards."""

    phase: Phase
    tokens: int
    peak: Parts
    rest: Parts


class Trace(Block):
    """All steps of one cell. On a GPU the host's part is beyond the device's peak; on the CPU it is within."""

    cell: Cell
    label: str
    environment: Environment
    steps: tuple[Step, ...]

    def bytes(self, parts: Parts) -> int:
        """Of memory that the device has: on the CPU, the host's part too."""
        return parts.device + (parts.host if self.environment.device_kind == "cpu" else 0)

    @property
    def highest(self) -> int:
        """Index of the step in which the peak comes, the first of equals."""
        return max(range(len(self.steps)), key=lambda i: (self.bytes(self.steps[i].peak), -i))


def write_csv(trace: Trace) -> str:
    """A line a step; every part of its peak and of its rest, in bytes."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["step", "phase", "tokens", *(f"{when}_{part}" for when in ("peak", "rest") for part in BANDS)])
    for i, step in enumerate(trace.steps):
        values = (getattr(parts, part) for parts in (step.peak, step.rest) for part in BANDS)
        lines.writerow([i, step.phase, step.tokens, *values])
    return out.getvalue()


def draw(trace: Trace) -> Drawing:
    """The peak of every step, stacked by what it was made of, with what stayed at rest as a line. Inside `style()`.

    Weights that are more than half of the peak stand on a floor of a fixed height, and the scale begins above it.
    """
    figure = st.figure(9.2, 5.0)
    axes = figure.add_axes((0.085, 0.125, 0.745, 0.70))
    top = trace.bytes(trace.steps[trace.highest].peak)
    weights = trace.steps[0].peak.weights
    cut = 2 * weights > top
    floor = (top - weights) * _FLOOR / (1 - _FLOOR) if cut else weights
    shown = [part for part in BANDS if any(getattr(step.peak, part) for step in trace.steps)]
    _stack(axes, trace, shown, floor)
    _axes(axes, trace, weights, floor, cut)
    _annotate(axes, trace, weights, floor)
    _head(figure, trace)
    return Drawing(figure, words(trace))


def _stack(axes: Axes, trace: Trace, shown: Sequence[str], floor: float) -> None:
    """One bar a step, as wide as the step, so that bars make bands."""
    edges = [i - 0.5 for i in range(len(trace.steps) + 1)]
    below = [0.0] * len(trace.steps)
    for part in shown:
        sizes = [floor if part == "weights" else getattr(step.peak, part) for step in trace.steps]
        above = [b + s for b, s in zip(below, sizes, strict=True)]
        name, color = BANDS[part]
        axes.stairs(above, edges, baseline=below, fill=True, color=color, linewidth=0, label=name)
        below = above
    weights = trace.steps[0].peak.weights
    rest = [trace.bytes(step.rest) - weights + floor for step in trace.steps]
    axes.stairs(rest, edges, color=st.INK[0], linewidth=1.3, label="held at rest", baseline=None)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5)


def _axes(axes: Axes, trace: Trace, weights: int, floor: float, cut: bool) -> None:
    top = trace.bytes(trace.steps[trace.highest].peak) - weights + floor
    axes.set_xlim(-0.5, len(trace.steps) - 0.5)
    axes.set_ylim(0, top * 1.16)
    axes.grid(axis="x", visible=False)
    # Bytes beyond the floor, where the weights are cut short.
    shift = floor if cut else 0.0
    ticks = [t for t in MaxNLocator(6, steps=[1, 2, 4, 5, 10]).tick_values(0, (top - shift) / _unit(top)) if t >= 0]
    axes.set_yticks([t * _unit(top) + shift for t in ticks if t * _unit(top) + shift <= top * 1.16])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: st.size(y - shift) if y > shift else "0"))
    axes.set_ylabel("bytes beyond the weights" if cut else "bytes")
    if cut:
        words = f"weights {st.size(weights)} (not to scale)"
        axes.text(0.01, floor / 2, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    steps = trace.steps
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{steps[int(x)].tokens:,}" if 0 <= x < len(steps) else "")
    )
    axes.set_xlabel("tokens after each step: a chunk of the prompt, the seal, a decoded token")
    first = next((i for i, step in enumerate(steps) if step.phase != "prefill"), None)
    if first is not None:
        axes.axvline(first - 0.5, color=st.INK[0], linewidth=0.8, linestyle=(0, (2, 2)))
        # Beside the line, on the side that has room.
        left = first < len(steps) / 2
        axes.text(
            first - 0.5, top * 1.15, " seal and decoding" if left else "prefill ", fontsize=8.5, color=st.MUTED[0],
            ha="left" if left else "right", va="top",
        )  # fmt: skip


def _unit(top: float) -> int:
    return next((u for u in (1 << 30, 1 << 20, 1 << 10) if top >= 2 * u), 1)


def _annotate(axes: Axes, trace: Trace, weights: int, floor: float) -> None:
    i = trace.highest
    step = trace.steps[i]
    peak = trace.bytes(step.peak)
    y = peak - weights + floor
    words = f"peak {st.size(peak)}, at {step.tokens:,} tokens ({step.phase})"
    left = i > len(trace.steps) / 2
    axes.plot([i], [y], marker="v", color=st.INK[0], markersize=6, clip_on=False, zorder=5)
    axes.annotate(
        words, (i, y), xytext=(-7 if left else 7, 7), textcoords="offset points", fontsize=9, fontweight="bold",
        ha="right" if left else "left", va="bottom",
    )  # fmt: skip


def _head(figure: Figure, trace: Trace) -> None:
    cell, env = trace.cell, trace.environment
    batch = f", batch {cell.batch}" if cell.batch > 1 else ""
    chunk = cell.protocol["chunk"]
    how = f"in chunks of {chunk}" if chunk else "in one call"
    title = f"Memory while {trace.label} reads and writes {cell.context:,} tokens: {cell.model}"
    figure.text(0.02, 0.965, title, fontsize=12.5, fontweight="bold", va="top")
    under = f"the prompt {how}{batch}; {env.device_name}, {cell.dtype}, torch {env.torch}"
    figure.text(0.02, 0.905, under, fontsize=8.5, color=st.MUTED[0], va="top")


def words(trace: Trace) -> str:
    """What the peak is made of, in a sentence."""
    step = trace.steps[trace.highest]
    total = trace.bytes(step.peak)
    parts = sorted(BANDS, key=lambda part: -getattr(step.peak, part))
    made = ", ".join(
        f"{BANDS[part][0]} {st.size(n)} ({n / total:.0%})" for part in parts if (n := getattr(step.peak, part))
    )
    return f"peak {st.size(total)} in {step.phase}, at {step.tokens:,} tokens: {made}"
