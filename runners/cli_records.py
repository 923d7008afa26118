"""Words of the command `kvfrontier` that are about records and what they come to: reproduce, validate, compare,
publish."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import dedent
from typing import Any

_RAW = argparse.RawDescriptionHelpFormatter


def add(commands: Any) -> None:
    """Add them to the command's subparsers."""
    _add_reproduce(commands)
    _add_validate(commands)
    _add_compare(commands)
    _add_publish(commands)


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="published comparisons, run again and judged",
        description=dedent("""\
            Runs what a paper's claim needs, and judges it by a stated rule: holds, holds in direction, fails, cannot be
            tested here. Without a name it lists the comparisons. Before the run it says which verdicts the model cannot
            carry. What is recorded is not run again, so an interrupted run goes on with the same command.

              kvfrontier reproduce                               which there are
              kvfrontier reproduce attention-sinks               run and judge one
              kvfrontier reproduce --all --scale cpu --dry-run   which cells, and what cannot be tested
              kvfrontier reproduce --all --scale cpu             all of them: under 90 minutes on 2 cores
              kvfrontier reproduce --all --scale gpu model=hf model.path=org/name
              kvfrontier reproduce --all --judge                 run nothing: the verdicts on what is recorded

            Writes verdicts.md and verdicts.json beside the records.
            """),
        formatter_class=_RAW,
    )
    parser.add_argument("names", nargs="*", metavar="NAME|KEY=VALUE", help="comparisons, and overrides of all cells")
    parser.add_argument("--all", action="store_true", help="every comparison")
    parser.add_argument("--scale", default="cpu", metavar="cpu|gpu", help="what it runs on (cpu)")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="records and verdicts (results/local/reproduce-SCALE)"
    )
    parser.add_argument("--dry-run", action="store_true", help="plan and run nothing")
    parser.add_argument("--judge", action="store_true", help="run nothing, and judge what is recorded")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.set_defaults(serve=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from kvfrontier.runners.reproduce import show

    return show.reproduce(
        options.names,
        every=options.all,
        at=options.scale,
        folder=options.results or Path("results", "local", f"reproduce-{options.scale}"),
        dry_run=options.dry_run,
        judge_only=options.judge,
        as_json=options.json,
    )


def _add_validate(commands: Any) -> None:
    parser = commands.add_parser(
        "validate",
        help="whether records may be put beside others: schema, invariants, duplicates",
        description=dedent("""\
            Looks at every line of record files: whether it is a record; whether its id is the hash of its cell, its
            bytes what the closed form says, its peaks above them, its times positive, its scores the means of the
            results beside them, its protocol and environment known; and whether no record stands twice. Nothing in a
            file is run. The workflow that gates a pull request runs the same.

              kvfrontier validate my.jsonl
              kvfrontier validate submissions/ --against results/

            Exit code: 0 no problem, 1 some, 2 bad usage.
            """),
        formatter_class=_RAW,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder of some")
    parser.add_argument(
        "--against", nargs="+", type=Path, default=[], metavar="PATH", help="records of which none may come again"
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.set_defaults(serve=_validate)


def _validate(options: argparse.Namespace) -> int:
    from kvfrontier.runners.submission import show

    return 0 if show.show(options.paths, options.against, as_json=options.json) else 1


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="two runs, versions or machines: what got better or worse beyond noise",
        description=dedent("""\
            Matches the cells of two sets of records, and says what changed: scores by a paired bootstrap on the same
            samples, bytes exactly, seconds where quartiles do not overlap (on one machine alone).

              kvfrontier compare before/ after/
              kvfrontier compare before/ after/ --only score bytes     what a noisy machine cannot hide
              kvfrontier compare before/ after/ --seconds 10% --whole

            Exit code: 0 nothing got worse, 1 something did, 2 bad usage.
            """),
        formatter_class=_RAW,
    )
    parser.add_argument("before", type=Path, metavar="A", help="a .jsonl file, or a folder of some")
    parser.add_argument("after", type=Path, metavar="B", help="the same, of the other side")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="of status, score, bytes, seconds (all)")
    parser.add_argument(
        "--peak", type=_share, default="1%", metavar="SHARE", help="a change of peak that is none (1%%)"
    )
    parser.add_argument("--seconds", type=_share, default="5%", metavar="SHARE", help="the same of median times (5%%)")
    parser.add_argument("--whole", action="store_true", help="show what did not change, too")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.set_defaults(serve=_compare)


def _compare(options: argparse.Namespace) -> int:
    from kvfrontier.analysis.changes import KINDS
    from kvfrontier.runners.review import compare

    same = compare.show(
        options.before,
        options.after,
        only=options.only or KINDS,
        peak=options.peak,
        seconds=options.seconds,
        whole=options.whole,
        as_json=options.json,
    )
    return 0 if same else 1


def _share(text: str) -> float:
    """5% or 0.05."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share below 1; write 5% or 0.05")
    return value


def _add_publish(commands: Any) -> None:
    parser = commands.add_parser(
        "publish",
        help="records as a data set with card, leaderboard and page",
        description=dedent("""\
            Writes a folder with the records, one table of all rows (Parquet), the report, a card and Croissant
            metadata; with --to hf or wandb it is pushed by your own credentials. Records that would not pass
            `kvfrontier validate` are not published.

              kvfrontier publish results/ --to folder -o dataset
              kvfrontier publish results/ --to hf --repo me/kvfrontier-results -o dataset
              kvfrontier publish results/ --to wandb --project kvfrontier -o dataset
            """),
        formatter_class=_RAW,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder of some")
    parser.add_argument("--to", required=True, choices=("folder", "hf", "wandb"), help="where it goes")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder for the data set")
    parser.add_argument("--name", default="kvfrontier results", help="what the data set is called")
    parser.add_argument("--repo", metavar="ORG/NAME", help="of the Hugging Face Hub")
    parser.add_argument("--private", action="store_true", help="make the Hub's data set private, where it is new")
    parser.add_argument("--project", metavar="NAME", help="of Weights & Biases")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(serve=_publish)


def _publish(options: argparse.Namespace) -> int:
    import json

    from kvfrontier.runners.errors import UsageError
    from kvfrontier.runners.publish import dataset, send
    from kvfrontier.runners.record import check_writable

    wanted = {"hf": ("--repo", options.repo), "wandb": ("--project", options.project)}.get(options.to)
    if wanted and not wanted[1]:
        raise UsageError(f"--to {options.to} needs {wanted[0]}; see kvfrontier publish --help")
    folder = check_writable(options.output, "-o DIR")
    files = dataset.prepare(options.paths, folder, options.name)
    address = ""
    if options.to == "hf":
        address = send.to_hub(folder, options.repo, private=options.private)
    elif options.to == "wandb":
        address = send.to_wandb(folder, options.project, options.name)
    told = [str(file) for file in files]
    print(
        json.dumps({"files": told, "address": address}) if options.json else "\n".join(filter(None, [*told, address]))
    )
    return 0
