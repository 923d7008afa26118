"""What every figure has: its words, the marks of flags, a title with a legend, and a foot that names the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.transforms import Transform

from kvfrontier.analysis import style as st
from kvfrontier.analysis.rows import FAMILIES, Board, Column, Row

#: Marks of the flags that warn.
MARKS = {"needs training": "†", "simulated": "‡", "query-aware": "§", "not matched": "¶"}
#: A method without a cache is drawn at the edge, or in a strip of its own, where it is this many times away.
FAR = 2.5
#: Points of type, and inches of a line of it.
_TITLE, _LEGEND, _FOOT = 12.5, 9.0, 8.0
_TITLE_LINE, _LEGEND_LINE = 0.22, 0.205


@dataclass(frozen=True)
class Drawing:
    """A figure, and what it shows in words."""

    figure: Figure
    words: str


def label(row: Row, column: Column | None = None) -> str:
    """A method's name with the marks of its flags: of those that hold in a column, where one is drawn."""
    flags = row.flags_in(column) if column else row.flags
    return row.method + "".join(f" {MARKS[flag]}" for flag in flags if flag in MARKS)


def mark_words(rows: Sequence[Row], column: Column | None = None) -> str:
    """What the marks beside the names of rows mean."""
    flags = {flag for row in rows for flag in (row.flags_in(column) if column else row.flags)}
    return "; ".join(f"{MARKS[f]} {f}" for f in MARKS if f in flags)


def lines(text: str, size: float, width: float, weight: str = "normal") -> list[str]:
    """Text of a size in points, broken between words into lines of at most `width` inches."""
    found: list[str] = []
    for word in text.split():
        longer = f"{found[-1]} {word}" if found else word
        if found and text_width(longer, size, weight) <= width:
            found[-1] = longer
        else:
            found.append(word)
    return found


@lru_cache(maxsize=1024)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return float(TextPath((0, 0), text, prop=font).get_extents().width) / 72 if text.strip() else 0.0


@dataclass(frozen=True)
class Head:
    """The title of a figure and the legend under it, in as many lines as its width asks for. Sizes in inches."""

    title: tuple[str, ...]
    handles: tuple[Line2D, ...]
    rows: int

    @classmethod
    def of(cls, width: float, title: str, rows: Sequence[Row], more: Sequence[Line2D] = (), hollow: str = "") -> Head:
        """`more`: entries after the families; `hollow`: what a hollow marker says, where there is one."""
        families = {row.info.family for row in rows}
        place = {family: i for i, family in enumerate(FAMILIES)}
        handles = [
            Line2D(
                [], [], linestyle="none", marker=st.look(f).marker, markersize=st.look(f).size,
                markerfacecolor=st.look(f).light, markeredgecolor=st.PAPER[0], label=f,
            )
            for f in sorted(families, key=lambda f: (place.get(f, len(place)), f))
        ]  # fmt: skip
        if hollow:
            handles.append(
                Line2D(
                    [], [], linestyle="none", marker="o", markersize=6.5, markerfacecolor=st.PAPER[0],
                    markeredgecolor=st.MUTED[0], markeredgewidth=1.4, label=f"hollow: {hollow}",
                )
            )  # fmt: skip
        handles += more
        deep = 1
        while deep < len(handles) and _legend_width([str(h.get_label()) for h in handles], deep) > width - 0.3:
            deep += 1
        return cls(tuple(lines(title, _TITLE, width - 0.3, "bold")), tuple(handles), deep)

    @property
    def height(self) -> float:
        return 0.16 + _TITLE_LINE * len(self.title) + 0.06 + _LEGEND_LINE * self.rows + 0.12

    def write(self, figure: Figure) -> None:
        """Write it at the top of a figure."""
        width, height = figure.get_size_inches()
        figure.text(
            0.14 / width, 1 - 0.16 / height, "\n".join(self.title), fontsize=_TITLE, fontweight="bold", va="top",
            linespacing=1.25, color=st.INK[0],
        )  # fmt: skip
        top = 1 - (0.2 + _TITLE_LINE * len(self.title)) / height
        figure.legend(
            handles=self.handles, loc="upper left", bbox_to_anchor=(0.02 / width, top), fontsize=_LEGEND,
            ncols=math.ceil(len(self.handles) / self.rows), handletextpad=0.35, columnspacing=1.3, borderaxespad=0.1,
            labelcolor=st.MUTED[0],
        )  # fmt: skip


def _legend_width(names: Sequence[str], rows: int) -> float:
    """Inches of a legend of so many rows: matplotlib fills its columns one after the other."""
    columns = np.array_split(names, math.ceil(len(names) / rows))
    handle, between = 2.0 + 0.35, 1.3  # in ems: matplotlib's length of a handle, and what `write` asks for
    text = sum(max(text_width(name, _LEGEND) for name in column) for column in columns)
    return text + (handle * len(columns) + between * (len(columns) - 1)) * _LEGEND / 72


@dataclass(frozen=True)
class Foot:
    """Small lines at the bottom: the model and the machine, and what marks and bars mean."""

    text: tuple[str, ...]

    @classmethod
    def of(cls, width: float, board: Board, *sentences: str) -> Foot:
        told = [f"{board.setting.model} on {board.setting.machine}", *(s.rstrip(".") for s in sentences if s)]
        return cls(tuple(lines(f"{'. '.join(told)}.", _FOOT, width - 0.3)))

    @property
    def height(self) -> float:
        return 0.2 + 0.15 * len(self.text)

    def write(self, figure: Figure) -> None:
        """Write it at the bottom of a figure."""
        width, height = figure.get_size_inches()
        figure.text(
            0.14 / width, 0.1 / height, "\n".join(self.text), fontsize=_FOOT, color=st.MUTED[0], va="bottom",
            linespacing=1.3,
        )  # fmt: skip


def inches(axes: Axes) -> Transform:
    """Places on the paper that stay where they are whatever resolution a file is saved with."""
    return owner(axes).dpi_scale_trans


def owner(axes: Axes) -> Figure:
    """The figure that axes stand in."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes belong to no figure")
    return figure
