"""Needles side by side: how much is found by depth (down) and context (across), a panel a method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from kvfrontier.analysis import style as st
from kvfrontier.analysis.figures.drawing import Drawing, label
from kvfrontier.analysis.figures.quality import quality_words
from kvfrontier.analysis.needles import Heat
from kvfrontier.analysis.rows import Board, Column

#: Inches of a cell's height, of what stands above a panel and below it, of the head and the foot.
_CELL, _ABOVE, _BELOW, _HEAD, _FOOT = 0.2, 0.34, 0.3, 0.5, 0.34
_WIDTH, _LEFT, _ACROSS = 8.2, 0.62, 4


def needle_maps(board: Board, column: Column, made: Sequence[Heat]) -> Drawing:
    """One map for each method, all with the same contexts, depths and shades; each cell says its mean in hundredths."""
    contexts = sorted({c for heat in made for c, _ in heat.cells})
    depths = sorted({d for heat in made for _, d in heat.cells})
    across = min(_ACROSS, len(made))
    down = math.ceil(len(made) / across)
    panel = _CELL * len(depths)
    height = _HEAD + down * (panel + _ABOVE + _BELOW) + _FOOT
    figure = st.figure(_WIDTH, height)
    wide = (_WIDTH - _LEFT - 0.1) / across
    shades = LinearSegmentedColormap.from_list("found", [to_rgb(st.GRID[0]), to_rgb(st.LOOKS["selection"].light)])
    for i, heat in enumerate(made):
        x = _LEFT + (i % across) * wide
        y = height - _HEAD - (i // across + 1) * (panel + _ABOVE + _BELOW) + _BELOW
        axes = figure.add_axes((x / _WIDTH, y / height, (wide - 0.22) / _WIDTH, panel / height))
        values = np.array([[heat.cells.get((c, d), (math.nan, 0))[0] for c in contexts] for d in depths])
        axes.imshow(values, cmap=shades, vmin=0, vmax=1, aspect="auto")
        axes.grid(visible=False)
        axes.set_title(label(heat.row, column), fontsize=8.5, pad=4)
        axes.set_xticks(range(len(contexts)), [f"{c:,}" for c in contexts], fontsize=7)
        axes.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths] if i % across == 0 else [], fontsize=7)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        for (j, k), value in np.ndenumerate(values):
            if not math.isnan(value):
                color = st.PAPER[0] if value > 0.55 else st.INK[0]
                axes.text(k, j, f"{value * 100:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    title = quality_words(column)
    figure.text(
        0.14 / _WIDTH, 1 - 0.12 / height, f"{title[0].upper()}{title[1:]}, by depth and context", va="top",
        fontsize=12.5, fontweight="bold", color=st.INK[0],
    )  # fmt: skip
    where = f"{board.setting.model} on {board.setting.machine}"
    foot = f"{where}. Down: how deep in the text. Across: context (tokens). In hundredths."
    figure.text(0.14 / _WIDTH, 0.08 / height, foot, fontsize=7.6, color=st.MUTED[0], va="bottom")
    told = "; ".join(f"{heat.row.method} {np.mean([v for v, _ in heat.cells.values()]):.2f}" for heat in made)
    return Drawing(figure, f"Mean over all depths and contexts: {told}.")
