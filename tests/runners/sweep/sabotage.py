"""What goes wrong in a process apart, by the environment variable SABOTAGE: a test cannot patch another process, so
this stands where its work begins."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kvfrontier.runners import cell as cells
from kvfrontier.runners import limit, models
from kvfrontier.runners.sweep import worker

_run, _load = cells.Bench.run, models.load


def serve(link: Connection, errors: str, environment: Mapping[str, str]) -> None:
    """worker.serve, sabotaged."""
    torch.set_num_threads(1)
    setattr(cells.Bench, "run", _sabotaged)  # noqa: B010  a method of another signature
    how, _, where = environment.get("SABOTAGE", "").partition(" ")
    if how == "count-loads":
        models.load = lambda config: (_note(Path(where), "load"), _load(config))[1]
    if how == "load":
        models.load = load
    worker.serve(link, errors, environment)


def load(config: Mapping[str, Any]) -> Any:
    raise KeyError("weights")


def _sabotaged(self: cells.Bench, *args: Any) -> Any:
    how, _, where = os.environ.get("SABOTAGE", "").partition(" ")
    match how:
        case "hang":
            time.sleep(600)
        case "slow":
            time.sleep(0.5)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            print("the last words", file=sys.stderr, flush=True)
            os.abort()
        case "limit":
            self.loaded  # noqa: B018  what it takes is not the method's
            room = limit.counted() + (1 << 20)
            resource.setrlimit(resource.RLIMIT_DATA, (room, room))
        case "cuda":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        case "cuda-once":
            before = Path(where).exists()
            _note(Path(where), str(os.getpid()))
            if not before:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return _run(self, *args)


def _note(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n")


def sweep_that_leaves(words: Sequence[str], silent: bool) -> None:
    """A sweep whose cell hangs; notes the id of the process that it hangs in."""
    from kvfrontier.runners import compose
    from kvfrontier.runners.sweep import crew as crews
    from tests.runners.sweep.processes import TINY

    file, os.environ["SABOTAGE"] = Path(words[0]), words[1]
    crews.serve = serve
    compose.register()
    config = compose.Composer(TINY)([]).config
    crew = crews.Crew(isolate=True)
    crew._start()
    assert crew._process is not None
    file.write_text(str(crew._process.pid))
    crew.run(cells.describe(config), config, lambda _: None)
