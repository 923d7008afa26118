"""The figures: quality against the state's share or bytes, decode time against context, state bytes against context.

Each is drawn from one board and stands alone: it names its units, its model and its machine.
"""

from __future__ import annotations

from kvfrontier.analysis.figures.context import decode_time, state_bytes
from kvfrontier.analysis.figures.drawing import MARKS, Drawing
from kvfrontier.analysis.figures.quality import (
    KINDS,
    drawable,
    frontier_figure,
    frontier_panel,
    fronts,
    plotted,
    quality_words,
)
from kvfrontier.analysis.figures.scales import Kind

__all__ = [
    "KINDS",
    "MARKS",
    "Drawing",
    "Kind",
    "decode_time",
    "drawable",
    "frontier_figure",
    "frontier_panel",
    "fronts",
    "plotted",
    "quality_words",
    "state_bytes",
]
