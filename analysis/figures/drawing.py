"""What every figure has: its words, the marks of flags, a title with a legend, and a foot that names the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform

from kvfrontier.analysis import style as st
from kvfrontier.analysis.rows import FAMILIES, Board, Row

DAGGERS = {"needs training": "†", "simulated": "‡", "query-aware": "§", "not matched": "¶"}
#: A method without a cache is drawn at the edge, or in a strip of its own, where it is this many times away.
FAR = 2.5


@dataclass(frozen=True)
class Drawing:
    """A figure, what it shows in words, and words for each of its points by their id in an SVG."""

    figure: Figure
    words: str
    tips: dict[str, str]


def label(row: Row) -> str:
    """A method's name with the marks of its flags."""
    return row.method + "".join(f" {DAGGERS[flag]}" for flag in row.flags)


def flag_words(board: Board) -> str:
    """What the marks beside names mean."""
    flags = {flag for row in board.rows for flag in row.flags}
    return "; ".join(f"{DAGGERS[f]} {f}" for f in DAGGERS if f in flags)


def write_head(figure: Figure, title: str, rows: Sequence[Row], *, front: bool, columns: int) -> None:
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


def write_foot(figure: Figure, words: str) -> None:
    """One small line at the bottom."""
    width, height = figure.get_size_inches()
    figure.text(0.14 / width, 0.13 / height, words.strip(), fontsize=8, color=st.MUTED[0], va="bottom")


def inches(axes: Axes) -> Transform:
    """Places on the paper that stay where they are whatever resolution a file is saved with."""
    return owner(axes).dpi_scale_trans


def owner(axes: Axes) -> Figure:
    """The figure that axes stand in."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes belong to no figure")
    return figure
