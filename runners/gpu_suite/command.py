"""The suite's command line. The parent process loads no torch, so that it can outlive whatever a device does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

from kvfrontier.runners.errors import UsageError

PARTS = ("checks", "curves", "families", "walls", "quality", "traces")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kvfrontier gpu-suite`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = dedent("""\
        Everything a GPU is asked, the most valuable first, written down at once: kernels and backends against eager,
        every method in bfloat16, decode and prefill over the context, families side by side, the longest context that
        fits, the embedded model's quality, profiles. The same command goes on where the last one stopped.

          kvfrontier gpu-suite --minutes 8 -o gpu
          kvfrontier gpu-suite --only curves,families --minutes 5 -o gpu
          kvfrontier gpu-suite --dry-run -o /tmp/dry      the same path on CPU, at tiny size, in seconds

        Where there is no network, the embedded model's GGUF is brought along, in pieces or whole: --gguf FILE ...
        """)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new begins (8)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for what is found")
    parser.add_argument("--only", metavar="PART,...", help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], metavar="FILE", help="the embedded model's file")
    parser.add_argument("--dry-run", action="store_true", help="on CPU, at tiny size")
    parser.add_argument("--json", action="store_true", help="print the entries as JSON")
    parser.add_argument("--worker", type=float, metavar="SECONDS", help=argparse.SUPPRESS)


def serve(options: argparse.Namespace) -> int:
    """Run the suite; 1 where an item failed."""
    from kvfrontier.runners.record import check_writable

    only = tuple(options.only.split(",")) if options.only else PARTS
    for part in only:
        if part not in PARTS:
            raise UsageError(f"gpu-suite has no part {part!r}; choose of {', '.join(PARTS)}")
    if options.minutes <= 0:
        raise UsageError(f"--minutes {options.minutes:g} leaves no time; give more than 0")
    for file in options.gguf:
        if not file.exists():
            raise UsageError(f"there is no file {file}; name the pieces of the embedded model's GGUF in order")
    folder = check_writable(options.output, "-o DIR")
    if options.worker is not None:
        from kvfrontier.runners.gpu_suite import worker

        worker.work(folder, only, options.dry_run, options.worker, tuple(options.gguf))
        return 0
    from kvfrontier.runners.gpu_suite import conductor

    return conductor.conduct(folder, only, options.dry_run, options.minutes * 60, tuple(options.gguf), options.json)


def main(argv: Sequence[str] | None = None) -> int:
    """The module's own entry; the exit code."""
    import sys

    parser = argparse.ArgumentParser("python -m kvfrontier.runners.gpu_suite")
    add_arguments(parser)
    try:
        return serve(parser.parse_args(argv))
    except UsageError as error:
        print(f"kvfrontier: {error}", file=sys.stderr)
        return 2
