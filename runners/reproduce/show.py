"""What `kvfrontier reproduce` prints: before the run what cannot be tested, and after it claimed, measured, verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvfrontier.analysis.reproduce import table
from kvfrontier.analysis.reproduce.comparison import SCALES, Scale, names, scale
from kvfrontier.runners import cell as cells
from kvfrontier.runners.errors import UsageError, unknown
from kvfrontier.runners.record import check_writable
from kvfrontier.runners.reproduce import measures
from kvfrontier.runners.reproduce.run import Reproduction, check_same, in_order, known
from kvfrontier.runners.tables import show_table


def reproduce(
    asked: Sequence[str],
    *,
    every: bool,
    at: str,
    folder: Path,
    dry_run: bool,
    judge_only: bool,
    as_json: bool,
) -> int:
    """Run and judge comparisons, or list them where none is named; the exit code.

    asked      names of comparisons, and overrides of all their cells (model=..., context=...)
    every      all comparisons
    judge_only run nothing: verdicts on what is recorded
    """
    if at not in SCALES:
        raise unknown("scale", at, SCALES)
    chosen: Scale = "cpu" if at == "cpu" else "gpu"
    words = [word for word in asked if "=" in word]
    wanted = [word for word in asked if "=" not in word]
    if every and wanted:
        raise UsageError(f"--all is every comparison; leave it or {' '.join(wanted)} away")
    if not every and not wanted:
        _list(chosen, as_json)
        return 0
    for name in wanted:
        known(name)
    chosen_names = names() if every else in_order(wanted)
    if dry_run:
        _plan(Reproduction.of(chosen_names, chosen, words, folder), as_json)
        return 0
    # One folder has one table: what it has verdicts on already stays in it, computed again.
    before = check_same(folder, chosen, words)
    check_writable(folder, "--results DIR")
    run = Reproduction.of(chosen_names, chosen, words, folder)
    failed = 0
    if not judge_only:
        if not as_json:
            _foretell(run)
        failed = run.execute(lambda text: None if as_json else print(text))
    whole = Reproduction.of(in_order({*chosen_names, *before}), chosen, words, folder)
    judgements = whole.judged()
    files = whole.write(judgements)
    mine = [j for j in judgements if j.comparison.name in chosen_names]
    found = table.data(mine, scale(chosen), words)
    if as_json:
        print(json.dumps(found))
    else:
        _show(found, files)
    if failed:
        print(f"{failed} cells failed; the same command tries them again")
    return 1 if failed else 0


def _list(at: Scale, as_json: bool) -> None:
    asked = [known(name) for name in names()]
    if as_json:
        print(json.dumps([c.model_dump(mode="json") for c in asked]))
        return
    rows = [(c.name, c.claim, f"{c.source}, {c.where}", "no" if at in c.cannot else "yes") for c in asked]
    show_table(None, ("comparison", "claim", "source", f"testable on {at}"), rows)
    print("Run and judge one: kvfrontier reproduce attention-sinks; all: kvfrontier reproduce --all --scale cpu")


def _plan(run: Reproduction, as_json: bool) -> None:
    """Which cells would run, and which verdicts the model cannot carry."""
    records = run.records()
    missing = {asked.identity for asked in run.missing(records)}
    rows = []
    for cases in run.all:
        planned = {asked.identity: asked.cell for asked in cases.cells.values()}
        computed = [view for view, _ in cases.comparison.measured() if cases.comparison.views[view].measure]
        rows.append(
            {
                "name": cases.comparison.name,
                "cannot": run.foretold(cases, records),
                "cells": len(planned),
                "to_run": sum(key in missing for key in planned),
                "computed": len(computed),
                "to_compute": len(computed) if measures.missing_measures(cases.comparison, run.folder) else 0,
                "methods": list(dict.fromkeys(map(cells.method_label, planned.values()))),
                "contexts": sorted({cell.context for cell in planned.values()}),
            }
        )
    if as_json:
        print(json.dumps({"cells_to_run": len(missing), "comparisons": rows}))
        return
    columns = ("comparison", "cells", "to run", "computed", "methods", "contexts", "cannot be tested here")
    lines = [_plan_row(row) for row in rows]
    show_table(scale(run.scale).says, columns, lines, numbers=columns[1:4])
    print(f"cells to run, each once: {len(missing)}")


def _plan_row(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(row[key]) for key in ("cells", "to_run", "computed"))
    return (row["name"], *counts, ", ".join(row["methods"]), ", ".join(map(str, row["contexts"])), row["cannot"])


def _foretell(run: Reproduction) -> None:
    """What is known before the run."""
    at = scale(run.scale)
    records = run.records()
    cannot = {c.comparison.name: run.foretold(c, records) for c in run.all}
    print(f"{at.says} {len(run.missing(records))} cells to run, into {run.folder}")
    print("Not as in the papers:", *(f"  - {text}" for text in at.differs), sep="\n")
    told = [f"  - {name}: {reason}" for name, reason in cannot.items() if reason]
    if told:
        print("Cannot be tested here:", *told, sep="\n")


def _show(found: dict[str, Any], files: Sequence[Path]) -> None:
    rows = []
    for one in found["comparisons"]:
        claimed, measured = table.columns(one)
        rows.append((one["name"], claimed, measured, one["verdict"], one["why"]))
    show_table(None, ("comparison", "claimed", "measured", "verdict", "why"), rows)
    for one in found["comparisons"]:
        if one["differs"]:
            print(f"{one['name']}, not as in the paper: {'; '.join(one['differs'])}")
    print(f"Rule: {found['rule']}.")
    print("written:", *files)
