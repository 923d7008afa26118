"""Words of the command `kvfrontier` that are about sweeps and their folders: status, merge, bench-sweep."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import dedent
from typing import Any

_RAW = argparse.RawDescriptionHelpFormatter


def add(commands: Any) -> None:
    """Add them to the command's subparsers."""
    status = commands.add_parser(
        "status",
        help="how far running sweeps are",
        description=dedent("""\
            Done, running, failed and still to go of every sweep that writes to a folder, and how long that takes. It
            reads files alone, so it answers on any machine that sees the folder.

              kvfrontier status results/local
              kvfrontier status --watch results/local
            """),
        formatter_class=_RAW,
    )
    status.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="results=DIR of a sweep, or a folder above")
    status.add_argument("--watch", action="store_true", help="until everything is done")
    status.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="how often --watch looks (2)")
    status.add_argument("--json", action="store_true", help="JSON instead of a table")
    status.set_defaults(serve=_status)

    merge = commands.add_parser(
        "merge",
        help="one folder of records from several",
        description=dedent("""\
            The union of record files and folders, by the identity of records: of two with one id the one that did not
            fail stands, then the later. Where they say different things of what should not vary (scores, sizes), both
            are shown. Devices stay apart, in a folder each. Nothing is changed but the new folder.

              kvfrontier merge laptop/ a100/ h100/*.jsonl -o results/all
            """),
        formatter_class=_RAW,
    )
    merge.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder that holds some")
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder for the records")
    merge.add_argument("--json", action="store_true", help="JSON instead of a table")
    merge.set_defaults(serve=_merge)

    bench = commands.add_parser(
        "bench-sweep",
        help="how long planning, resuming and merging take",
        description=dedent("""\
            Times kvfrontier --help, a dry run of 500 cells, how soon a sweep over 10,000 records begins, and a merge of
            1,000,000 records with the memory that it takes. Writes bench_sweep.md and bench_sweep.json; a few minutes,
            and 3 GB in a temporary folder. Run it on a machine that does nothing else.

              kvfrontier bench-sweep -o results/bench-sweep
              kvfrontier bench-sweep -o quick --records 10000
            """),
        formatter_class=_RAW,
    )
    bench.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    bench.add_argument("--records", type=int, default=1_000_000, help="records to merge (1000000)")
    bench.add_argument("--repetitions", type=int, default=5, help="of what takes seconds (5)")
    bench.add_argument("--json", action="store_true", help="print the rows as JSON")
    bench.set_defaults(serve=_bench_sweep)


def _status(options: argparse.Namespace) -> int:
    from kvfrontier.runners import status

    status.show(options.paths, watching=options.watch, every=options.every, as_json=options.json)
    return 0


def _merge(options: argparse.Namespace) -> int:
    from kvfrontier.runners import merge

    merge.show(options.paths, options.output, as_json=options.json)
    return 0


def _bench_sweep(options: argparse.Namespace) -> int:
    from kvfrontier.runners import bench_sweep
    from kvfrontier.runners.progress import working
    from kvfrontier.runners.record import check_writable

    folder = check_writable(options.output, "-o DIR")
    with working("bench-sweep") as say:
        found = bench_sweep.run(options.records, options.repetitions, say)
    _, page = bench_sweep.write(found, folder)
    print(found.model_dump_json(indent=1) if options.json else page.read_text())
    return 0
