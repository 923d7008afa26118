"""Words of the command `kvfrontier` that show records: report, figure, table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from kvfrontier.runners.errors import UsageError, unknown

if TYPE_CHECKING:
    from kvfrontier.runners.record import Record

_RAW = argparse.RawDescriptionHelpFormatter


def add(commands: Any) -> None:
    """Add them to the command's subparsers."""
    report = commands.add_parser(
        "report",
        help="tables, figures and a page from records",
        description=dedent("""\
            Writes, from record files or folders of them: report.html, one page that opens from disk; index.html with
            assets/ and data/, the same for a web server (GitHub Pages, a Space); leaderboard.md and leaderboard.csv;
            figures as PNG and SVG.

              kvfrontier report results/ -o site
              kvfrontier report a100/*.jsonl laptop/ -o both --plan qwen3-8b,llama-3-70b
            """),
        formatter_class=_RAW,
    )
    report.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder that holds some"
    )
    report.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    report.add_argument(
        "--plan",
        default="llama-3.1-8b",
        metavar="MODELS",
        help="models of kvfrontier list models that the page predicts, beside those of the records (llama-3.1-8b)",
    )
    report.add_argument("--json", action="store_true", help="print what was written as JSON")
    report.set_defaults(serve=_report)

    figure = commands.add_parser(
        "figure",
        help="one figure from records, as PDF, PNG or SVG",
        description=dedent("""\
            Draws one figure of the report, by its name; without a name, lists those that these records give.

              kvfrontier figure                                       which there are
              kvfrontier figure frontier --format pdf -o frontier.pdf
              kvfrontier figure decode_time a100/ --format svg -o decode.svg
            """),
        formatter_class=_RAW,
    )
    _named(figure, "FILE", "file to write (NAME.FORMAT)", ("pdf", "png", "svg"), "pdf")
    figure.set_defaults(serve=_figure)

    table = commands.add_parser(
        "table",
        help="one table from records, as LaTeX, Markdown or CSV",
        description=dedent("""\
            Prints one table of the report, by its name; without a name, lists those that these records give.

              kvfrontier table                                        which there are
              kvfrontier table leaderboard --format latex --context 1024 --columns method,share16
              kvfrontier table front a100/ --format csv -o front.csv
            """),
        formatter_class=_RAW,
    )
    _named(table, "FILE", "file to write (the terminal)", ("latex", "markdown", "csv"), "markdown")
    table.add_argument("--context", type=int, metavar="TOKENS", help="this context alone")
    table.add_argument("--columns", metavar="WORDS", help="only columns whose headings hold one of these words")
    table.set_defaults(serve=_table)


def _named(parser: argparse.ArgumentParser, what: str, where: str, formats: Sequence[str], usual: str) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="its name; without, all names")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="records, files or folders (results)")
    parser.add_argument("--format", choices=formats, default=usual, help=f"({usual})")
    parser.add_argument("-o", "--output", type=Path, metavar=what, help=where)
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


def _records(paths: Sequence[Path]) -> list[Record]:
    from kvfrontier.runners.record import load_records

    paths = paths or [Path("results")]
    records = load_records(*paths)
    if not records:
        raise UsageError(f"there are no records in {', '.join(map(str, paths))}; make some with: kvfrontier run")
    return records


def _report(options: argparse.Namespace) -> int:
    from kvfrontier.runners.record import check_writable

    records = _records(options.paths)
    folder = check_writable(options.output, "-o DIR")
    # Only now: a folder without records is told of without loading torch.
    from kvfrontier.analysis.report import write_report
    from kvfrontier.runners import facts

    known = facts.gather(records, [name for name in options.plan.split(",") if name])
    written = write_report(records, folder, source=" ".join(map(str, options.paths)), facts=known)
    print(json.dumps([str(path) for path in written]) if options.json else "\n".join(map(str, written)))
    return 0


def _chosen(kind: str, name: str, found: dict[str, Any]) -> Any:
    if name not in found:
        raise unknown(kind, name, found)
    return found[name]


def _listed(titles: dict[str, str], as_json: bool) -> int:
    from kvfrontier.runners.tables import show_table

    if as_json:
        print(json.dumps([{"name": name, "title": title} for name, title in titles.items()]))
    else:
        show_table(None, ("name", "shows"), titles.items())
    return 0


def _path_first(options: argparse.Namespace) -> None:
    """`kvfrontier figure results/` lists what is there: a path is no name."""
    if options.name and Path(options.name).exists():
        options.paths.insert(0, Path(options.name))
        options.name = None


def _figure(options: argparse.Namespace) -> int:
    from kvfrontier.analysis.boards import boards
    from kvfrontier.analysis.report.pictures import pictures
    from kvfrontier.analysis.wall import walls
    from kvfrontier.runners.record import check_writable

    _path_first(options)
    records = _records(options.paths)
    found = {picture.name: picture for picture in pictures(boards(records), walls(records))}
    if options.name is None:
        return _listed({name: picture.title for name, picture in found.items()}, options.json)
    picture = _chosen("figure", options.name, found)
    target = options.output or Path(f"{picture.name}.{options.format}")
    check_writable(target.parent, "-o FILE")
    target.write_bytes(picture.file(options.format))
    print(json.dumps(str(target)) if options.json else target)
    return 0


def _table(options: argparse.Namespace) -> int:
    from kvfrontier.analysis.report import read
    from kvfrontier.analysis.report.named import named
    from kvfrontier.runners.record import check_writable

    _path_first(options)
    wanted = [word for word in (options.columns or "").split(",") if word]
    every = bool(wanted)
    found = {table.name: table for table in named(read(_records(options.paths)), options.context, every=every)}
    if options.name is None:
        return _listed({name: table.title for name, table in found.items()}, options.json)
    table = _chosen("table", options.name, found)
    if options.context is not None and not table.lines:
        raise UsageError(f"{table.name} has no line at context {options.context}; leave --context out to see which")
    try:
        table = table.only(wanted)
    except ValueError as error:
        raise UsageError(str(error)) from error
    text = table.text("json" if options.json else options.format)
    if options.output is None:
        sys.stdout.write(text + "\n")
    else:
        check_writable(options.output.parent, "-o FILE")
        options.output.write_text(text + "\n", encoding="utf-8")
        print(options.output)
    return 0
