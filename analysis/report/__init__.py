"""The report: leaderboard.md, leaderboard.csv, figures as PNG and SVG, and the page in two forms. report.html is one
file that opens from disk without a network; index.html with assets/ and data/ is the same for a web server, as GitHub
Pages or a Space, with the rows as Parquet and JSON beside it.

The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report import tables, web
from kvfrontier.analysis.report.data import site_data
from kvfrontier.analysis.report.pictures import pictures
from kvfrontier.analysis.report.standings import standings
from kvfrontier.analysis.report.trained import trained_pages
from kvfrontier.analysis.rows import Board
from kvfrontier.analysis.scenarios import Scenarios, scenarios
from kvfrontier.analysis.trained import Track, trained
from kvfrontier.analysis.wall import Wall, walls
from kvfrontier.analysis.wall import markdown as wall_markdown
from kvfrontier.runners.record import Record

__all__ = ["Told", "read", "write_report"]


@dataclass(frozen=True)
class Told:
    """What records come to: boards and their standings, searches for the longest context, workloads, trainings."""

    boards: Sequence[tuple[Board, tables.Standings]]
    walls: Sequence[Wall]
    served: Sequence[Scenarios]
    tracks: Sequence[Track] = ()


def read(records: Iterable[Record], source: str = "results") -> Told:
    """What tables, figures and the page are made of. Raises ValueError where there are no records."""
    records = list(records)
    if not records:
        raise ValueError(f"no records in {source}; run `kvfrontier run` first")
    found = [(board, standings(board)) for board in boards(records)]
    return Told(found, walls(records), scenarios(records), trained(records))


def write_report(
    records: Iterable[Record],
    out_dir: str | Path,
    *,
    source: str = "results",
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the report of `records` into a folder, and return its files. `source` is where the records came from, for
    the error and for the line that says how to repeat it; `facts` as for `site_data`. Raises ValueError where there are
    no records."""
    records = list(records)
    records = list(records)
    told = read(records, source)
    out = Path(out_dir)
    made: dict[str, bytes] = {}
    shown: dict[int | None, list[tuple[str, str]]] = {}
    for picture in pictures([board for board, _ in told.boards], told.walls):
        made |= {f"{picture.name}.{kind}": picture.file(kind) for kind in ("png", "svg")}
        shown.setdefault(picture.of, []).append((picture.title, f"{picture.name}.png"))
    sections: list[str] = []
    stood = [one for one in told.walls if any(searched.probes for searched in one.methods)]
    for one, (_, name) in zip(stood, shown.get(None, ()), strict=True):
        sections += ["", *wall_markdown(one, name)]
    for one in told.served:
        sections += ["", *one.markdown]
    told_of_trained, files_of_trained = trained_pages(records)
    sections += told_of_trained
    data = site_data(told.boards, source, told.walls, told.served, facts, told.tracks)
    rows = tables.flat(told.boards)
    texts = {
        "leaderboard.md": tables.markdown(told.boards, shown) + "\n".join(sections),
        "leaderboard.csv": rows.write_csv(),
        **web.pages(data, explained(told)),
        "data/rows.json": rows.write_json(),
    }
    files = {name: text.encode() for name, text in texts.items()} | {"data/rows.parquet": _parquet(rows)} | made
    files |= files_of_trained
    return [_write(out / name, content) for name, content in files.items()]


def explained(told: Told) -> Sequence[tables.Field]:
    """The columns of the first board, each once."""
    return tables.explained(tables.fields(*told.boards[0])) if told.boards else ()


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
