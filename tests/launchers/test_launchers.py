"""Under every launcher a sweep makes the records that it makes in one process, and a job that is stopped goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from kvfrontier.runners.record import Record, load_records

pytestmark = [pytest.mark.launchers, pytest.mark.slow]

#: Twelve cells in three jobs.
SWEEP = (
    "-m", "method=dense,window,kivi2", "context=384,448", "seed=0,1", "model=tiny", "device=cpu", "task=needle",
    "task.samples=1", "meter.decode_tokens=2", "meter.repetitions=1", "meter.warmups=0", "tracker=none",
)  # fmt: skip

#: A job so long that it can be stopped in the middle: six cells of about two seconds.
LONG = ("-m", "method=recompute", "context=768", "seed=0,1,2,3,4,5", *SWEEP[4:], "meter.decode_tokens=12")
SLURM = (
    "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=30",
)  # fmt: skip

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def words(*arguments: str | Path) -> list[str]:
    """The command line of kvfrontier with these arguments."""
    return [sys.executable, "-m", "kvfrontier.runners.cli", *map(str, arguments)]


@pytest.fixture
def kvfrontier() -> Command:
    """Run the command in a process of its own, which is given four minutes."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {**os.environ, **environment}
        return subprocess.run(words(*arguments), env=own, capture_output=True, text=True, check=False, timeout=240)

    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the sweep gives when one process runs one cell after the other."""
    folder = tmp_path_factory.mktemp("basic")
    subprocess.run(words("run", *SWEEP, f"results={folder}"), capture_output=True, check=True)
    return answers(folder)


def answers(folder: Path) -> dict[str, Any]:
    """Of every record what a second run must give again: all but times and dates."""
    return {record.id: _answer(record) for record in load_records(folder)}


def _answer(record: Record) -> tuple[Any, ...]:
    scores = {name: score.value for name, score in record.quality.scores.items()}
    memory = record.memory.model_dump(exclude={"allocator_waste", "workspace"})
    return record.status, json.dumps(scores), json.dumps(record.quality.samples), json.dumps(memory)


def lines(folder: Path) -> int:
    """Lines of all record files."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*.jsonl"))


def assert_same_records(launched: subprocess.CompletedProcess[str], results: Path, undisturbed: dict) -> None:
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert answers(results) == undisturbed
    assert lines(results) == len(undisturbed) == 12, "none twice"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_processes_of_this_machine_make_the_records_of_one(kvfrontier: Command, tmp_path, undisturbed, launcher):
    own = {"joblib": ["hydra.launcher.n_jobs=2"]}.get(launcher, [])
    sweep = ("run", *SWEEP, f"hydra/launcher={launcher}", *own, f"results={tmp_path}")
    assert_same_records(kvfrontier(*sweep), tmp_path, undisturbed)
    again = json.loads(kvfrontier(*sweep, "--json").stdout)
    assert (again["ran"], again["recorded"]) == (0, 12), "and nothing is launched for what is recorded"


def test_a_worker_that_is_killed_costs_its_cell_alone(tmp_path):
    command = words("run", *LONG, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", f"results={tmp_path}")
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: lines(tmp_path) > 0, sweep)
    for worker in psutil.Process(sweep.pid).children(recursive=True):
        worker.send_signal(signal.SIGKILL)
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    assert "the launcher gave up" in said
    assert "Traceback" not in said
    left = lines(tmp_path)
    assert left >= 1
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout)["ran"] == 6 - left
    assert len(answers(tmp_path)) == lines(tmp_path) == 6


# ------------------------------------------------------------------------------------------ Slurm


def test_slurm_makes_the_records_of_one_process(kvfrontier: Command, slurm: Path, tmp_path, undisturbed):
    sweep = ("run", *SWEEP, *SLURM, f"results={tmp_path}")
    assert_same_records(kvfrontier(*sweep, SLURM_CONF=str(slurm)), tmp_path, undisturbed)
    again = json.loads(kvfrontier(*sweep, "--json", SLURM_CONF=str(slurm)).stdout)
    assert (again["ran"], again["recorded"]) == (0, 12)


def test_a_job_that_slurm_requeues_goes_on_from_its_records(slurm: Path, tmp_path):
    environment = {**os.environ, "SLURM_CONF": str(slurm)}
    command = words("run", *LONG, *SLURM, f"results={tmp_path}", "--json")
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: lines(tmp_path) >= 2, sweep)
    listed = ["squeue", "--noheader", "--states=running", "--format=%i"]
    (running,) = subprocess.run(listed, capture_output=True, text=True, check=True, env=environment).stdout.split()
    subprocess.run(["scontrol", "requeue", running], check=True, env=environment)
    out, said = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, said
    found = json.loads(out)
    assert [cell["status"] for cell in found["cells"]] == ["ok"] * 6
    assert lines(tmp_path) == 6, "the cells before it was stopped are not run again"
    shown = subprocess.run(["scontrol", "show", "job", running], capture_output=True, text=True, env=environment)
    assert "Restarts=1" in shown.stdout


def test_a_job_that_dies_under_slurm_is_said(slurm: Path, tmp_path):
    environment = {**os.environ, "SLURM_CONF": str(slurm)}
    command = words("run", *LONG, *SLURM, f"results={tmp_path}")
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: lines(tmp_path) >= 1, sweep)
    subprocess.run(["scancel", "--user=root"], check=True, env=environment)
    _, said = sweep.communicate(timeout=240)
    assert sweep.returncode == 1
    assert "the launcher gave up" in said
    assert "run the same command to try them again" in said
    assert len(answers(tmp_path)) == lines(tmp_path)


# ------------------------------------------------------------------------------------------ Ray


@pytest.mark.parametrize("need", [1, 40])
def test_ray_makes_the_records_of_one_process(kvfrontier: Command, ray: str, tmp_path, undisturbed, need):
    """Jobs that take 40 GiB have one node that can hold them, and wait for it."""
    own = ("hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray}")
    placed = f"+hydra.launcher.ray.remote.resources.gpu_gib={need}"
    sweep = ("run", *SWEEP, *own, placed, f"results={tmp_path}")
    assert_same_records(kvfrontier(*sweep), tmp_path, undisturbed)
    again = json.loads(kvfrontier(*sweep, "--json").stdout)
    assert (again["ran"], again["recorded"]) == (0, 12)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str], patience: float = 180) -> None:
    until = time.monotonic() + patience
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
