"""Progress of long work, on stderr, and only where a person is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Say what is going on, and for how long already, while the block runs; call what it yields to say more."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(what, total=None)
        yield lambda now: progress.update(task, description=f"{what}: {now}")


@contextmanager
def downloading(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar of `size` bytes; call what it yields with the number of bytes that are there."""
    with _progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as progress:
        task = progress.add_task(what, total=size)
        yield lambda there: progress.update(task, completed=min(there, size))


@dataclass
class CellBar:
    """The bar of a sweep: `say` what is going on now, `advance` by the cost of a cell that is done."""

    progress: Progress
    task: TaskID

    def say(self, what: str) -> None:
        self.progress.update(self.task, description=what)

    def advance(self, cost: float) -> None:
        self.progress.advance(self.task, cost)


#: The bar that is shown now. Jobs find it here, because what lies between them and the sweep is Hydra's.
_shown: ContextVar[CellBar | None] = ContextVar("shown", default=None)


@contextmanager
def cells(total: float, shown: bool = True) -> Iterator[None]:
    """A bar over the cells of a sweep with an estimate of the time left; `total` is the sum of their costs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Cells take seconds to minutes: the speed is that of the whole sweep so far, not of the last half minute.
    progress = Progress(
        *columns, console=console, disable=not (shown and console.is_terminal), speed_estimate_period=1e9
    )
    with progress:
        token = _shown.set(CellBar(progress, progress.add_task("starting", total=total)))
        try:
            yield
        finally:
            _shown.reset(token)


def cell_bar() -> CellBar | None:
    """The bar of the sweep that this process runs, if there is one."""
    return _shown.get()


def _progress(*columns: TextColumn | BarColumn | DownloadColumn | TimeElapsedColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
