"""Tables for a person to read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[str] = ()
) -> None:
    """Print a table; the columns named in `numbers` are aligned right."""
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        number = column in numbers
        table.add_column(column, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # Where nobody looks, a table is wide enough that nothing is cut, unless COLUMNS says how wide.
    told = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    Console(width=None if told else 200).print(table)
