"""How every figure looks: colours, markers, units, type.

Families are told apart by colour and by shape, so that a figure survives a colour-blind reader and a grey printer. The
hues are those of Okabe and Ito (2008), a little deeper where white paper asks for it. Each colour of a figure has a
name here, and a shade for dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Look:
    """A family's colour on light and on dark paper, and its marker."""

    light: str
    dark: str
    marker: str

    @property
    def size(self) -> float:
        """Of the marker in points, so that all look equally large."""
        return _SIZES.get(self.marker, 7.2)

    @property
    def path(self) -> str:
        """The marker as an SVG path about (0, 0), 12 wide."""
        return _PATHS[self.marker]


#: The markers as paths in a box of -6..6, for pages: straight lines, and for "o" an arc.
_PATHS = {
    "o": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
    "s": "M-4.2 -4.2H4.2V4.2H-4.2Z",
    "D": "M0 -5.4L5.4 0L0 5.4L-5.4 0Z",
    "^": "M0 -5L5 4.4H-5Z",
    "v": "M0 5L5 -4.4H-5Z",
    "P": "M-1.8 -5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "X": "M-2.5 -5L0 -2.5L2.5 -5L5 -2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0L-5 -2.5Z",
    "p": "M0 -5L4.8 -1.5L2.9 4H-2.9L-4.8 -1.5Z",
    "h": "M0 -5L4.3 -2.5V2.5L0 5L-4.3 2.5V-2.5Z",
    "*": "M0 -5.6L1.4 -1.9L5.3 -1.7L2.2 0.7L3.3 4.5L0 2.3L-3.3 4.5L-2.2 0.7L-5.3 -1.7L-1.4 -1.9Z",
    "8": "M-2 -5H2L5 -2V2L2 5H-2L-5 2V-2Z",
}
_SIZES = {"D": 6.2, "*": 11.5, "P": 8.4, "X": 8.0, "p": 8.2, "h": 8.0}

LOOKS = {
    "baseline": Look("#3d4450", "#c9d1d9", "o"),
    "selection": Look("#0168a8", "#58b0ee", "s"),
    "store": Look("#cf5400", "#ff9147", "D"),
    "memory": Look("#00835e", "#2fc79b", "^"),
    "recurrent": Look("#a8458b", "#e38fc8", "v"),
    "retrieval": Look("#9a7400", "#e8c04a", "P"),
    "segments": Look("#2b8fb3", "#7fd0ea", "X"),
    "sharing": Look("#6a51c7", "#a996f5", "p"),
    "positions": Look("#8a5a3c", "#c99a79", "h"),
    "patterns": Look("#b3261e", "#ff8a80", "*"),
}
OTHER = Look("#6f7681", "#9aa3ae", "8")

#: (light, dark) of what is not data.
PAPER = ("#ffffff", "#14181f")
INK = ("#1b1f27", "#e8ebf0")
MUTED = ("#5d6672", "#9aa4b2")
GRID = ("#e6e9ee", "#2a313c")
FRONT = ("#8b93a1", "#727c8b")

#: Inches of one panel of a figure of several.
PANEL = (4.7, 4.3)
DPI = 200

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.facecolor": PAPER[0],
    "savefig.facecolor": PAPER[0],
    "axes.facecolor": PAPER[0],
    "axes.edgecolor": FRONT[0],
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED[0],
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "axes.titlecolor": INK[0],
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID[0],
    "grid.linewidth": 0.8,
    "xtick.color": FRONT[0],
    "ytick.color": FRONT[0],
    "xtick.labelcolor": MUTED[0],
    "ytick.labelcolor": MUTED[0],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK[0],
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "svg.hashsalt": "kvfrontier",
    "path.simplify": False,
}


@contextmanager
def style(*, text: str = "path") -> Iterator[None]:
    """Everything drawn and saved inside looks like ours. `text`: letters of an SVG as "path", or "none" for text that
    takes the page's own type."""
    settings: dict[Any, Any] = {**_RC, "svg.fonttype": text}
    with matplotlib.rc_context(settings):
        yield


def figure(width: float, height: float) -> Figure:
    """A figure of inches that no window system knows of."""
    return Figure(figsize=(width, height), dpi=DPI)


def look(family: str) -> Look:
    """A family's colours and marker; one look for all that are not known."""
    return LOOKS.get(family, OTHER)


def themes() -> dict[str, tuple[str, str, str]]:
    """Each colour of a figure as light shade -> (name, light, dark), for pages that have a dark side."""
    named = {f"family-{name}": (one.light, one.dark) for name, one in {**LOOKS, "other": OTHER}.items()}
    named |= {"paper": PAPER, "ink": INK, "muted": MUTED, "grid": GRID, "line": FRONT}
    return {light: (name, light, dark) for name, (light, dark) in named.items()}


def size(n: float | None) -> str:
    """Bytes in the unit that a person would choose: 4.0 KiB, 22.5 MiB."""
    if n is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{_three(n)} {unit}" if unit != "B" else f"{n:.0f} B"
        n /= 1024
    return f"{_three(n)} TiB"


def seconds(s: float | None) -> str:
    """Seconds in the unit that a person would choose: 41.2 ms, 3.20 s."""
    if s is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if s >= scale or unit == "µs":
            return f"{_three(s / scale)} {unit}"
    return f"{s} s"


def percent(share: float | None) -> str:
    """A share of a whole: 105.8%, 25.1%, 0.035%."""
    if share is None:
        return ""
    return f"{share:.1%}" if share >= 0.0995 else f"{share * 100:.2g}%"


def growth(times: float) -> str:
    """How much larger something became: by 33%, 12-fold."""
    return f"by {times - 1:.0%}" if times < 10 else f"{times:,.0f}-fold"


def number(value: float | None) -> str:
    """A score to three figures or three decimals, whichever is shorter."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 0.001:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def tick(value: float) -> str:
    """A number on an axis, without decimals that say nothing."""
    return f"{value:,.10g}"


def _three(n: float) -> str:
    digits = 2 if n < 9.995 else 1 if n < 99.95 else 0
    return f"{n:.{digits}f}"
