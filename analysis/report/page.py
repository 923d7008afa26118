"""report.html: one file that opens from disk, with its figures inside. Text from records is escaped by the template."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.figures.wall import wall_figure
from kvfrontier.analysis.report import tables
from kvfrontier.analysis.report.repeat import commands
from kvfrontier.analysis.report.standings import Standing
from kvfrontier.analysis.rows import FAMILIES, Board
from kvfrontier.analysis.scenarios import COLUMNS as SCENARIO_COLUMNS
from kvfrontier.analysis.scenarios import Scenarios
from kvfrontier.analysis.wall import COLUMNS as WALL_COLUMNS
from kvfrontier.analysis.wall import Wall

_HERE = Path(__file__).parent
_LEAST = 3


def render(
    found: Sequence[tuple[Board, tables.Standings]],
    source: str,
    walls: Sequence[Wall] = (),
    served: Sequence[Scenarios] = (),
) -> str:
    """The page for boards and their standings, and for searches for the longest context."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    with style.style(text="none"):
        views = [_view(i, board, standings) for i, (board, standings) in enumerate(found)]
        stood = [(wall, svg(d, f"wall{i + 1}")) for i, wall in enumerate(walls) if (d := wall_figure(wall))]
    return environment.get_template("page.html").render(
        boards=views,
        walls=stood,
        wall_columns=WALL_COLUMNS,
        served=served,
        scenario_columns=SCENARIO_COLUMNS,
        css=Markup((_HERE / "page.css").read_text()),
        colors=Markup(_colors()),
        script=Markup((_HERE / "page.js").read_text()),
        source=source,
        n_records=sum(len(b.records) for b, _ in found)
        + sum(len(wall.methods) for wall in walls)
        + sum(len(s.measured) for s in served),
        flag_words=tables.FLAG_WORDS,
        markers=_MARKERS,
        looks=sorted(style.LOOKS),
        look=style.look,
    )


def _view(number: int, board: Board, standings: tables.Standings) -> dict[str, Any]:
    """All that the template shows of one board."""
    fields = tables.fields(board, standings)
    columns = figures.fronts(board, _LEAST)
    shown = {flag for row in board.rows for column in columns for flag in row.flags_in(column)}
    return {
        "id": f"b{number + 1}",
        "board": board,
        "setting": board.setting,
        "families": sorted(
            {row.info.family for row in board.rows},
            key=lambda f: (FAMILIES.index(f) if f in FAMILIES else len(FAMILIES), f),
        ),
        "hollow": any(not row.competes for row in board.rows),
        "marks": {flag: mark for flag, mark in figures.MARKS.items() if flag in shown},
        "grown": any(row.grew(column) for row in board.rows for column in columns),
        "older": any(row.score(column) and not row.held(column).own for row in board.rows for column in columns),
        "fronts": [_front(number, i, board, column, standings) for i, column in enumerate(columns)],
        "fields": fields,
        "groups": _groups(fields),
        "explained": tables.explained(fields),
        "rows": [(row, [field.read(row) for field in fields]) for row in board.rows],
        "pareto": _pareto(board, standings),
        "cost_titles": list(tables.COST_TITLES.values()),
        "lines": _line_figures(number, board),
        "failures": tables.failures(board),
        "machine": tables.machine_lines(board),
        "commands": commands(board),
        "fullest": max(board.contexts, key=lambda c: (sum(len(row.answers) for row in board.at(c)), c)),
    }


def _front(number: int, i: int, board: Board, column: Any, standings: tables.Standings) -> dict[str, Any]:
    """The panels of one score, by share and by bytes, with a sentence for each context."""
    kinds = []
    for kind, title in figures.KINDS.items():
        panels = []
        for context in board.contexts:
            rows = figures.plotted(board.at(context), column, kind)
            if rows:
                drawing = figures.frontier_panel(board, column, context, kind)
                standing = standings.get((column.name, context))
                words = standing.words if standing and kind == "share" else ""
                panels.append((context, svg(drawing, f"b{number}f{i}{kind}{context}"), words))
        kinds.append((kind, title, panels))
    return {"column": column, "words": figures.quality_words(column), "kinds": kinds}


def _line_figures(number: int, board: Board) -> list[tuple[str, str, Markup]]:
    found = []
    if any(row.seconds_per_token is not None for row in board.rows):
        words = "Median time of one decoded token; bars are quartiles. A flat line is a state that stopped growing."
        found.append(("Decode", words, svg(figures.decode_time(board, page=True), f"b{number}time")))
    if any(row.live for row in board.rows):
        words = "Live bytes of the state after decoding, payload and slack."
        found.append(("State", words, svg(figures.state_bytes(board, page=True), f"b{number}bytes")))
    return found


def _pareto(board: Board, standings: tables.Standings) -> list[tuple[int, Standing, list[Any]]]:
    """(context, standing, rows with their verdicts) for every headline, contexts first."""
    found = []
    for context in board.contexts:
        for column in board.headlines:
            standing = standings.get((column.name, context))
            if standing is None:
                continue
            rows = [
                (row, [standing.verdicts[cost].get(row.method) for cost in tables.COST_TITLES])
                for row in board.at(context)
                if row.score(column) is not None
            ]
            found.append((context, standing, rows))
    return found


def _groups(fields: Sequence[tables.Field]) -> list[tuple[str, int, tuple[str, ...]]]:
    """Neighbouring fields of one group -> (group, how many, the flags of all)."""
    found = [(group, list(members)) for group, members in itertools.groupby(fields, key=lambda f: f.group)]
    return [(group, len(members), members[0].flags) for group, members in found]


def _breakable(text: str) -> Markup:
    """Escaped text that may break after = and _."""
    return Markup(re.sub(r"([=_])", r"\1<wbr>", str(escape(text))))


# Figures inside the page


def svg(drawing: figures.Drawing, prefix: str) -> Markup:
    """A figure as an inline SVG: its colours are the page's (so that they follow its theme), its letters are text, its
    ids are its own, and each point says what it is."""
    buffer = StringIO()
    drawing.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for light, (name, _, _) in style.themes().items():
        text = text.replace(light, f"var(--{name})")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    # Type is the page's; only its size and weight are the figure's.
    text = re.sub(r"font: (?:(\w+) )?([\d.]+px)[^;\"]*", _font, text)
    for gid, tip in drawing.tips.items():
        mark = f'<g id="{prefix}-{gid}">'
        told = escape(tip)
        text = text.replace(mark, f'{mark[:-1]} class="point" tabindex="0" role="img" aria-label="{told}">', 1)
    width, height = drawing.figure.get_size_inches() * 72
    head = (
        f'<svg class="figure" viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="{escape(drawing.words)}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: head, text, count=1))


def _font(match: re.Match[str]) -> str:
    weight, size = match.groups()
    return f"font-size: {size}" + (f"; font-weight: {weight}" if weight else "")


def _colors() -> str:
    """The palette as CSS variables, light and dark."""

    def sheet(which: int) -> str:
        return "".join(f"--{name}:{shades[which]};" for name, *shades in style.themes().values())

    return (
        f":root{{color-scheme:light dark;{sheet(0)}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{sheet(1)}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{sheet(1)}}}"
        ":root[data-theme=light]{color-scheme:light}"
    )


#: Markers of the legend, as paths in a box of -6..6.
_MARKERS: Mapping[str, str] = {
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
