"""The figures by name, drawn when they are asked for: what the report writes, and `kvfrontier figure`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.figures.wall import wall_figure
from kvfrontier.analysis.needles import heats
from kvfrontier.analysis.rows import Board
from kvfrontier.analysis.wall import Wall

#: A front of fewer methods is no picture.
_LEAST = 3
#: What a file must not say, or the same records would give other bytes tomorrow.
_UNSAID: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}
#: Where a format says in words what a picture shows.
_TOLD = {"png": "Description", "svg": "Description", "pdf": "Subject"}
FORMATS = tuple(_UNSAID)


@dataclass(frozen=True)
class Picture:
    """One figure. `name` is its file's, without ending; `of` the number of its board, None of a wall."""

    name: str
    title: str
    of: int | None
    draw: Callable[[], figures.Drawing | None]

    def file(self, kind: str) -> bytes:
        """It as a file of this format, in our style; the same records give the same bytes."""
        with style.style():
            drawing = self.draw()
            assert drawing is not None, f"{self.name} is in the catalogue, so there is something to draw"
            buffer = BytesIO()
            metadata = _UNSAID[kind] | {"Title": self.title, _TOLD[kind]: drawing.words}
            drawing.figure.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()


def pictures(boards: Sequence[Board], walls: Sequence[Wall] = ()) -> Iterator[Picture]:
    """Of each board the front of the main score by share and by bytes, the fronts of the other tasks' primary scores,
    time and bytes against context, and needles; then the walls. Those of further boards have a number in their names:
    frontier-2."""
    for i, board in enumerate(boards):
        for name, title, draw in _of_board(board):
            yield Picture(name + _number(i), title, i, draw)
    for i, wall in enumerate(one for one in walls if any(searched.probes for searched in one.methods)):
        yield Picture(f"wall{_number(i)}", "bytes of state and decode time, up to the wall", None, _wall(wall))


def _number(i: int) -> str:
    return f"-{i + 1}" if i else ""


def _wall(wall: Wall) -> Callable[[], figures.Drawing | None]:
    return lambda: wall_figure(wall)


def _of_board(board: Board) -> Iterable[tuple[str, str, Callable[[], figures.Drawing]]]:
    for i, column in enumerate(figures.fronts(board, _LEAST)):
        kinds: list[figures.Kind] = [kind for kind in figures.KINDS if figures.drawable(board, column, kind, _LEAST)]
        for j, kind in enumerate(kinds if i == 0 else kinds[:1]):
            name = ("frontier" if i == 0 else f"frontier_{_slug(column.name)}") + (f"_{kind}" if j else "")
            title = f"{board.short(column)} against {figures.KINDS[kind]}"
            yield name, title, lambda column=column, kind=kind: figures.frontier_figure(board, column, kind)
    if any(row.seconds_per_token is not None for row in board.rows):
        yield "decode_time", "decode time against context", lambda: figures.decode_time(board)
    if any(row.live for row in board.rows):
        yield "state_bytes", "live bytes against context", lambda: figures.state_bytes(board)
    for i, (column, made) in enumerate(heats(board).items()):
        name = "needles" if i == 0 else f"needles_{_slug(column.name)}"
        title = f"{board.short(column)} by depth and context"
        yield name, title, lambda column=column, made=made: figures.needle_maps(board, column, made)


def _slug(text: str) -> str:
    return "_".join(re.findall(r"\w+", text))
