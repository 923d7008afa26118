"""The figures: quality against the state's share or bytes, decode time against context, state bytes against context.

Each is drawn from one board and stands alone: it names its units, its model and its machine.
"""

from __future__ import annotations

from kvfrontier.analysis.figures.context import decode_time, state_bytes
from kvfrontier.analysis.figures.drawing import MARKS, Drawing, label
from kvfrontier.analysis.figures.heat import needle_maps
from kvfrontier.analysis.figures.quality import (
    KINDS,
    SIZES,
    drawable,
    frontier_figure,
    fronts,
    plotted,
    quality_words,
    score_words,
    spot_of,
    tip,
)
from kvfrontier.analysis.figures.scales import Kind

__all__ = [
    "KINDS",
    "MARKS",
    "SIZES",
    "Drawing",
    "Kind",
    "decode_time",
    "drawable",
    "frontier_figure",
    "fronts",
    "label",
    "needle_maps",
    "plotted",
    "quality_words",
    "score_words",
    "spot_of",
    "state_bytes",
    "tip",
]
