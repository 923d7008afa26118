"""The word `wandb-sync` of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any


def add(commands: Any) -> None:
    """Add the command to argparse's sub-commands."""
    sync = commands.add_parser(
        "wandb-sync",
        help="records that exist, replayed into a W&B project",
        description=dedent("""\
            Sends records to Weights & Biases, one run a job: curves over the context, samples as tables, the records
            file, and the report of each folder as a run of its own. Nothing is run again. What a project has is kept in
            wandb/synced.json beside the records: a second sync sends what has come since, and one that was interrupted
            goes on from there.

              kvfrontier wandb-sync results/ --project long-context
              kvfrontier wandb-sync a100/ h100/ --entity my-team --tags paper
            """),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sync.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a .jsonl file, or a folder that holds some")
    sync.add_argument("--project", default="kvfrontier", help="W&B's project (kvfrontier)")
    sync.add_argument("--entity", help="a team or user (W&B's default one)")
    sync.add_argument("--group", help="W&B's group (the name of the records' folder)")
    sync.add_argument("--tags", default="", metavar="A,B", help="tags of the runs")
    sync.add_argument("--no-report", action="store_true", help="without the run that shows tables and figures")
    sync.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds to wait for the server (60)")
    sync.add_argument("--json", action="store_true", help="JSON instead of a table")
    sync.set_defaults(serve=_serve)


def _serve(options: argparse.Namespace) -> int:
    from kvfrontier.runners.tracker import WandbSettings
    from kvfrontier.runners.tracker.sync import SyncFailed, show

    wanted = WandbSettings(
        mode="online",
        project=options.project,
        entity=options.entity,
        group=options.group,
        tags=tuple(tag for tag in options.tags.split(",") if tag),
        timeout=options.timeout,
        system_metrics=None,
    )
    try:
        show(options.paths, wanted, report=not options.no_report, as_json=options.json)
    except SyncFailed as error:
        print(f"kvfrontier: {error}", file=sys.stderr)
        return 1
    return 0
