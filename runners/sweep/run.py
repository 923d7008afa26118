"""Running a sweep: plan, check, launch what is missing, and say what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvfrontier.runners import cell as cells
from kvfrontier.runners import progress
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import check_writable, content_hash, load_records
from kvfrontier.runners.refusal import foreseen
from kvfrontier.runners.sweep import manifest, show, stop
from kvfrontier.runners.sweep.cells import Away, Job, Known, Plan, Planned, plan
from kvfrontier.runners.sweep.forecast import Forecasts
from kvfrontier.runners.sweep.order import parse_shard

#: What a job returns whose cells another sweep is at work on.
ELSEWHERE = "elsewhere"


class CellsFailed(Exception):
    """Every cell was tried, and some have no result; their records say why."""


def run(
    axes: Sequence[str],
    *,
    exclude: Iterable[Mapping[str, Any]],
    results: Path,
    search: Sequence[str],
    launch: Callable[[list[list[str]]], Sequence[Any]],
    in_process: bool,
    away: Away | None = None,
    dry_run: bool,
    json_output: bool,
    predict: bool = False,
    zips: Iterable[Mapping[str, Sequence[Any]]] = (),
    shard: object = None,
    worker: Mapping[str, Any] | None = None,
) -> None:
    """Run what is missing of a sweep.

    axes         Hydra's overrides; those with several values are the axes
    exclude      cells to leave out (runners/sweep/axes.py), and `zips`: axes that advance together
    results      folder of the records, searched for those that exist
    search       where else to look for YAMLs
    launch       starts jobs, each given by its overrides, and returns Hydra's JobReturns
    in_process   the jobs run in this process one after the other, and can move a progress bar
    away         the jobs run on other machines
    predict      in a dry run, predict peaks that no cache has
    shard        `3/8`: the third part of eight alone
    worker       how cells run (crew.py): the node of that name in configs/config.yaml

    Raises UsageError before any work is done, and CellsFailed at the end where a cell failed.
    """
    part = parse_shard(shard)
    planned = plan(axes, exclude, results, search, away, zips)
    planned = planned.sharded(*part) if part else planned
    if dry_run:
        planned = planned.judged(foreseen)
        show.plan(planned, Forecasts(planned, predict=predict, away=away is not None), json_output)
        return
    from kvfrontier.runners.sweep import crew  # which loads transformers: planning does without

    own = crew.of(worker or {})
    check_writable(results)
    with stop.heard(), contextlib.ExitStack() as end:
        if in_process:
            end.callback(own.close)
        # Loading the model to ask it would take memory of the very GPU that a job of another process is to have.
        planned = planned.judged(own.check if in_process else foreseen)
        manifest.write(results, [_wanted(c, away) for c in planned.cells], axes)
        crashed = _run(planned, launch, shown=in_process)
    found = planned.found(Known(load_records(results), away))
    show.results(found, json_output)
    failed = [c for c, r in found if r is None or r.status == "failed"]
    if failed or crashed:
        raise CellsFailed(
            "\n".join(
                [
                    f"{len(failed)} of {len(planned.cells)} cells failed; run the same command to try them again",
                    *crashed,
                ]
            )
        )


def _wanted(c: Planned, away: Away | None) -> manifest.Wanted:
    cell = content_hash(c.cell.model_dump()) if away else ""
    return manifest.Wanted(c.id, cells.name(c.cell), c.kind, c.cell.context, c.cell.batch, cell)


def _run(planned: Plan, launch: Callable[[list[list[str]]], Sequence[Any]], shown: bool) -> list[str]:
    """Launch the jobs; those that another sweep of the folder is at work on once more, to wait for it. Returns what
    jobs died of."""
    jobs, crashed = planned.jobs, []
    with progress.cells(sum(c.cell.context for job in jobs for c in job.cells), shown=shown):
        waited = _launch(jobs, planned.fixed, launch, crashed)
        if waited:
            _launch(waited, [*planned.fixed, "++sweep.wait=true"], launch, crashed)
    return crashed


def _launch(
    jobs: Sequence[Job], fixed: Sequence[str], launch: Callable[[list[list[str]]], Sequence[Any]], crashed: list[str]
) -> list[Job]:
    """The jobs that are done elsewhere."""
    elsewhere = []
    for job, returned in zip(jobs, _launched(launch, [job.overrides(fixed) for job in jobs], crashed), strict=False):
        try:
            if returned.return_value == ELSEWHERE:  # Hydra raises here what the job raised
                elsewhere.append(job)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, the other jobs have run
            crashed.append(f"{' '.join(returned.overrides or [])}: {type(error).__name__}: {error}")
    return elsewhere


def _launched(
    launch: Callable[[list[list[str]]], Sequence[Any]], jobs: list[list[str]], crashed: list[str]
) -> Sequence[Any]:
    """What the jobs returned; nothing where the launcher gave up, which is then among those that `crashed`."""
    if not jobs:
        return ()
    try:
        return launch(jobs)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  a worker that was killed, a scheduler that is gone: records are kept
        last = str(error).strip().splitlines()[-1:] or [""]
        crashed.append(
            f"the launcher gave up ({type(error).__name__}: {last[0]}); jobs that it started may still be running"
        )
        return ()
