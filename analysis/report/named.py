"""The tables by name, as a paper, a README or a program takes them: `kvfrontier table`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import polars as pl

from kvfrontier.analysis.report import tables
from kvfrontier.analysis.rows import Board
from kvfrontier.analysis.scenarios import COLUMNS as SCENARIO_COLUMNS
from kvfrontier.analysis.wall import COLUMNS as WALL_COLUMNS

if TYPE_CHECKING:
    from kvfrontier.analysis.report import Told

FORMATS = ("markdown", "latex", "csv")
#: What LaTeX reads as a command, and how it is written.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "●": r"$\bullet$", "◐": r"$\circ$", "≈": r"$\approx$", "Δ": r"$\Delta$", "µ": r"\textmu{}", "∞": r"$\infty$",
    tables.MINUS: "$-$", tables.DASH: "--",
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """One table: its name, what it shows, its headings, and its lines of text."""

    name: str
    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]

    def only(self, words: Sequence[str]) -> Named:
        """The first column, and those whose headings hold one of these words; all where there are no words. Raises
        ValueError for a word that no heading holds."""
        for word in words:
            if not any(word.lower() in head.lower() for head in self.heads):
                raise ValueError(
                    f"no column of {self.name} has {word!r} in its heading; they are: {', '.join(self.heads)}"
                )
        kept = [
            i for i, head in enumerate(self.heads)
            if i == 0 or not words or any(word.lower() in head.lower() for word in words)
        ]  # fmt: skip
        heads = [self.heads[i] for i in kept]
        return Named(self.name, self.title, heads, [[line[i] for i in kept] for line in self.lines])

    def text(self, kind: str) -> str:
        """It as `kind` of FORMATS, or as "json": a dictionary a line."""
        if kind == "json":
            return json.dumps([dict(zip(self.heads, line, strict=True)) for line in self.lines], ensure_ascii=False)
        return {"markdown": self._markdown, "latex": self._latex, "csv": self._csv}[kind]()

    def _markdown(self) -> str:
        rule = ["---", *("---:" for _ in self.heads[1:])]
        return "\n".join([tables.table_line(self.heads), tables.table_line(rule), *map(tables.table_line, self.lines)])

    def _csv(self) -> str:
        buffer = StringIO()
        columns = list(zip(*self.lines, strict=True)) or [()] * len(self.heads)
        pl.DataFrame(dict(zip(self.heads, columns, strict=True)), strict=False).write_csv(buffer)
        return buffer.getvalue().rstrip("\n")

    def _latex(self) -> str:
        """For the package booktabs."""
        rows = [" & ".join(map(_escaped, line)) + r" \\" for line in self.lines]
        return "\n".join(
            [
                f"% {self.title}; needs \\usepackage{{booktabs}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.heads) - 1)}}}",
                r"\toprule",
                " & ".join(map(_escaped, self.heads)) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)


def named(told: Told, context: int | None = None, *, every: bool = False) -> Iterator[Named]:
    """Of each board the leaderboard, the front of each task, and what did not run; then walls and workloads. Those of
    further boards have a number in their names: leaderboard-2. `context`: this one alone. `every`: the leaderboard with
    the columns that the page shows only where they are asked for."""
    for i, (board, standings) in enumerate(told.boards):
        end, where = (f"-{i + 1}" if i else ""), f"{board.setting.model} on {board.setting.machine}"
        yield _leaderboard(f"leaderboard{end}", where, board, standings, context, every)
        yield _front(f"front{end}", where, board, standings, context)
        if missing := [line for line in tables.failures(board) if context in (None, line[0].context)]:
            lines = [[row.method, f"{row.context:,}", name, status, reason] for row, name, status, reason in missing]
            heads = ["method", "context", "pass", "status", "reason"]
            yield Named(f"failures{end}", f"What did not run, {where}", heads, lines)
    for i, wall in enumerate(told.walls):
        title = f"The wall: {wall.setting.model} on {wall.setting.machine}"
        yield Named(f"wall{f'-{i + 1}' if i else ''}", title, WALL_COLUMNS, wall.rows)
    for i, served in enumerate(told.served):
        title = f"Workloads: {served.setting.model} on {served.setting.machine}"
        yield Named(f"workloads{f'-{i + 1}' if i else ''}", title, SCENARIO_COLUMNS, served.rows)


def _leaderboard(
    name: str, where: str, board: Board, standings: tables.Standings, context: int | None, every: bool
) -> Named:
    fields = [field for field in tables.fields(board, standings) if every or not field.detail]
    lines = []
    for row in board.rows:
        if context in (None, row.context):
            values = [field.read(row) for field in fields]
            texts = [f"{v.text} ({v.small})" if v.small and v.text else v.text for v in values]
            lines.append([row.method, ", ".join(row.flags), f"{row.context:,}", *texts])
    heads = ["method", "flags", "context", *(field.name for field in fields)]
    return Named(name, f"Leaderboard, {where}", heads, lines)


def _front(name: str, where: str, board: Board, standings: tables.Standings, context: int | None) -> Named:
    lines = []
    for standing in standings.values():
        if context not in (None, standing.context) or standing.floor is not None:
            continue
        for row in board.at(standing.context):
            if row.score(standing.column) is not None:
                found = [standing.verdicts[cost].get(row.method) for cost in tables.COST_TITLES]
                words = [verdict.words if verdict else tables.DASH for verdict in found]
                lines.append([row.method, board.short(standing.column), f"{standing.context:,}", *words])
    heads = ["method", "score", "context", *tables.COST_TITLES.values()]
    return Named(name, f"Who is on the front, and who beats the others, {where}", heads, lines)
