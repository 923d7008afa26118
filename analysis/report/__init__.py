"""The report: leaderboard.md, leaderboard.csv, figures as PNG and SVG, and report.html, one file that needs no network.

The same records give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.figures.wall import wall_figure
from kvfrontier.analysis.report import page, tables
from kvfrontier.analysis.report.standings import standings
from kvfrontier.analysis.rows import Board
from kvfrontier.analysis.scenarios import scenarios
from kvfrontier.analysis.wall import markdown as wall_markdown
from kvfrontier.analysis.wall import walls
from kvfrontier.runners.record import Record

__all__ = ["write_report"]

#: A front of fewer methods is no picture.
_LEAST = 3


def write_report(records: Iterable[Record], out_dir: str | Path, *, source: str = "results") -> list[Path]:
    """Write the report of `records` into a folder, and return its files. `source` is where the records came from, for
    the error and for the line that says how to repeat it. Raises ValueError where there are none.

    Figures of further boards (another model, another machine) have a number in their names: frontier-2.png.
    """
    records = list(records)
    if not records:
        raise ValueError(f"no records in {source}; run `kvfrontier run` first")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    found = [(board, standings(board)) for board in boards(records)]
    written: list[Path] = []
    shown: dict[int, list[tuple[str, str]]] = {}
    with style.style():
        for i, (board, _) in enumerate(found):
            end = f"-{i + 1}" if i else ""
            for name, title, drawing in _drawings(board):
                stem = f"{name}{end}"
                written += [_write(out / f"{stem}.{kind}", picture(drawing, kind)) for kind in ("png", "svg")]
                shown.setdefault(i, []).append((title, f"{stem}.png"))
        stood = [(one, drawing) for one in walls(records) if (drawing := wall_figure(one))]
        sections: list[str] = []
        for i, (one, drawing) in enumerate(stood):
            stem = f"wall{f'-{i + 1}' if i else ''}"
            written += [_write(out / f"{stem}.{kind}", picture(drawing, kind)) for kind in ("png", "svg")]
            sections += ["", *wall_markdown(one, f"{stem}.png")]
    served = scenarios(records)
    for one in served:
        sections += ["", *one.markdown]
    made = {
        "leaderboard.md": tables.markdown(found, shown) + "\n".join(sections),
        "leaderboard.csv": tables.csv(found),
        "report.html": page.render(found, source, [one for one, _ in stood], served),
    }
    return [*(_write(out / name, text.encode()) for name, text in made.items()), *written]


def picture(drawing: figures.Drawing, kind: str) -> bytes:
    """A drawing as a file, without a date or a version, which would differ from run to run."""
    buffer = BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    drawing.figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _drawings(board: Board) -> list[tuple[str, str, figures.Drawing]]:
    """(name, title, drawing): the front of the main score by share and by bytes, the fronts of the other tasks' primary
    scores, then time and bytes against context."""
    found: list[tuple[str, str, figures.Drawing]] = []
    for i, column in enumerate(figures.fronts(board, _LEAST)):
        kinds: list[figures.Kind] = [kind for kind in figures.KINDS if figures.drawable(board, column, kind, _LEAST)]
        for j, kind in enumerate(kinds if i == 0 else kinds[:1]):
            name = ("frontier" if i == 0 else f"frontier_{_slug(column.name)}") + (f"_{kind}" if j else "")
            title = f"{board.short(column)} against {figures.KINDS[kind]}"
            found.append((name, title, figures.frontier_figure(board, column, kind)))
    if any(row.seconds_per_token is not None for row in board.rows):
        found.append(("decode_time", "decode time against context", figures.decode_time(board)))
    if any(row.live for row in board.rows):
        found.append(("state_bytes", "live bytes against context", figures.state_bytes(board)))
    return found


def _slug(text: str) -> str:
    return "_".join(re.findall(r"\w+", text))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
