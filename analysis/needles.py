"""Where in a text a method still finds what was hidden: answers by depth and context, for heat maps side by side."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvfrontier.analysis.rows import Board, Column, Row
from kvfrontier.analysis.stats import units

#: More depths than these are put together in tenths.
_MOST_DEPTHS = 11


@dataclass(frozen=True)
class Heat:
    """One method's map. `cells`: (context, depth) -> mean score and how many samples; depth from 0, the text's
    beginning, to 1."""

    row: Row
    cells: Mapping[tuple[int, float], tuple[float, int]]


def heats(board: Board) -> dict[Column, list[Heat]]:
    """The maps of every score whose samples say at which depth they were hidden, a map a method."""
    found = {column: made for column in board.headlines if (made := _of_column(board, column))}
    return {column: made for column, made in found.items() if len({d for heat in made for _, d in heat.cells}) > 1}


def _of_column(board: Board, column: Column) -> list[Heat]:
    depths = {depth for row in board.rows for depth, _ in _samples(row, column)}
    tenths = len(depths) > _MOST_DEPTHS
    made = []
    for method in board.methods:
        rows = board.of(method)
        cells: dict[tuple[int, float], list[float]] = defaultdict(list)
        for row in rows:
            for depth, value in _samples(row, column):
                cells[row.context, round(depth, 1) if tenths else depth].append(value)
        if cells:
            told = {place: (statistics.fmean(values), len(values)) for place, values in sorted(cells.items())}
            made.append(Heat(rows[0], told))
    return made


def _samples(row: Row, column: Column) -> Iterator[tuple[float, float]]:
    """(depth, result) of every sample."""
    answer = row.answers.get(column)
    for part in answer.parts if answer else ():
        values = units(part, column.score) or ()
        if len(values) == len(part.samples):
            for sample, value in zip(part.samples, values, strict=True):
                if isinstance(sample.get("depth"), int | float):
                    yield round(float(sample["depth"]), 3), value
