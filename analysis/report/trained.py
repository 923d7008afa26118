"""The trained track in the report: sections of the leaderboard, a figure for each, and one file of raw numbers."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

from kvfrontier.analysis import style
from kvfrontier.analysis.figures.trained import recall_figure
from kvfrontier.analysis.trained import table, trained
from kvfrontier.runners.record import Record


def trained_pages(records: Iterable[Record]) -> tuple[list[str], dict[str, bytes]]:
    """Lines for leaderboard.md, and files by name: recall.png and .svg (recall-2 of a second table), trained.csv. Both
    empty where nothing was trained."""
    tracks = trained(records)
    lines: list[str] = []
    files: dict[str, bytes] = {}
    with style.style():
        for i, track in enumerate(tracks):
            lines += ["", *track.markdown, ""]
            drawn = recall_figure(track)
            if drawn is None:
                continue
            figure, words = drawn
            name = f"recall{f'-{i + 1}' if i else ''}"
            for kind in ("png", "svg"):
                buffer = BytesIO()
                metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
                figure.savefig(buffer, format=kind, metadata=metadata)
                files[f"{name}.{kind}"] = buffer.getvalue()
            lines.append(f"![{words.split('.')[0]}]({name}.png)")
    if tracks:
        files["trained.csv"] = table(tracks).write_csv().encode()
    return lines, files
