"""The word `prefix` of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvfrontier.runners.prefix.files import Stored


def add(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    prefix = commands.add_parser(
        "prefix",
        help="the store of dense prefixes: what it holds, and what it is worth",
        description=dedent("""\
            What dense attention makes of a prompt is computed once, and every method whose prefill is dense attention
            starts its quality runs from it (kvfrontier list methods NAME: adopts). ls shows what is stored, clear
            removes it. bench times quality cells with the store and without, and a sweep beside one process a cell, and
            writes prefix_bench.md and .json; it takes over an hour on 2 cores, on a machine that does nothing else.

              kvfrontier prefix ls
              kvfrontier prefix clear --store DIR
              kvfrontier prefix bench -o results/prefix
              kvfrontier prefix bench model=tiny -o quick --context 512 --sweep smoke
              kvfrontier run prefix_store=off ...       without; prefix_store=DIR, prefix_store_size=50GiB
            """),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prefix.add_argument("what", choices=("ls", "clear", "bench"))
    prefix.add_argument("words", nargs="*", metavar="KEY=VALUE", help="of bench: overrides of its cells, as model=tiny")
    prefix.add_argument("--store", metavar="DIR", default="auto", help="its folder (in the user's cache)")
    prefix.add_argument("-o", "--output", type=Path, metavar="DIR", help="of bench: folder to write to")
    prefix.add_argument("--context", type=int, default=2048, help="of bench: tokens of the quality cells (2048)")
    prefix.add_argument("--sweep", default="quickstart", help="of bench: the sweep (quickstart)")
    prefix.add_argument("--only", metavar="PARTS", help="of bench: cells or sweep (both)")
    prefix.add_argument("--json", action="store_true", help="JSON instead of a table")
    prefix.set_defaults(serve=_serve)


def _serve(options: argparse.Namespace) -> int:
    from kvfrontier.runners.errors import UsageError

    if options.what == "bench":
        return _bench(options)
    if options.words:
        raise UsageError(f"prefix {options.what} takes no {options.words[0]!r}; name a folder with --store DIR")
    return _clear(options) if options.what == "clear" else _ls(options)


def _bench(options: argparse.Namespace) -> int:
    from kvfrontier.runners.errors import UsageError
    from kvfrontier.runners.prefix import bench
    from kvfrontier.runners.progress import working
    from kvfrontier.runners.record import check_writable

    if options.output is None:
        raise UsageError("prefix bench needs a folder to write to: -o DIR")
    folder = check_writable(options.output, "-o DIR")
    only = options.only.split(",") if options.only else bench.PARTS
    with working("prefix bench") as say:
        found = bench.run(say, words=options.words, context=options.context, sweep=options.sweep, only=only)
    page = bench.write(found, folder)
    print(found.model_dump_json(indent=1) if options.json else page.read_text())
    return 0


def _ls(options: argparse.Namespace) -> int:
    import json
    from datetime import UTC, datetime

    from kvfrontier.runners.prefix.settings import SIZE, parse
    from kvfrontier.runners.tables import show_table

    found = parse({"prefix_store": options.store, "prefix_store_size": SIZE})
    assert found is not None
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in _files(found[0]).stored() if found[0].is_dir() else ():
        groups.setdefault((one.facts.get("model", "?"), one.facts.get("dtype", "?")), []).append(one)
    rows = [
        {
            "model": model,
            "dtype": dtype,
            "pieces": len(pieces),
            "tokens": sum(int(p.facts.get("tokens", 0)) for p in pieces),
            "bytes": sum(p.size for p in pieces),
            "last_used": datetime.fromtimestamp(max(p.used for p in pieces), UTC).isoformat(timespec="seconds"),
        }
        for (model, dtype), pieces in sorted(groups.items())
    ]
    if options.json:
        print(json.dumps({"folder": str(found[0]), "prefixes": rows}))
        return 0
    columns = ("model", "dtype", "pieces", "tokens", "MiB", "last used")
    lines = [
        (r["model"], r["dtype"], f"{r['pieces']:,}", f"{r['tokens']:,}", f"{r['bytes'] / 2**20:.1f}", r["last_used"])
        for r in rows
    ]
    show_table(f"dense prefixes in {found[0]}", columns, lines, numbers=("pieces", "tokens", "MiB"))
    return 0


def _clear(options: argparse.Namespace) -> int:
    import json

    from kvfrontier.runners.prefix.settings import parse

    found = parse({"prefix_store": options.store})
    assert found is not None
    count, size = _files(found[0]).clear() if found[0].is_dir() else (0, 0)
    if options.json:
        print(json.dumps({"folder": str(found[0]), "removed": count, "bytes": size}))
    else:
        print(f"removed {count} pieces of prefixes, {size / 2**20:.1f} MiB, from {found[0]}")
    return 0


def _files(folder: Path) -> Any:
    from kvfrontier.runners.prefix.files import PrefixFiles

    return PrefixFiles(folder, limit=1)
