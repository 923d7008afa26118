"""Launchers: the extra that one needs, jobs of other machines, and what a launcher leaves when it gives up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvfrontier.runners import compose, environment
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.job import records_file
from kvfrontier.runners.record import append, load_records
from kvfrontier.runners.sweep import cells
from kvfrontier.runners.sweep.cells import Away, plan


@pytest.fixture(autouse=True)
def registered() -> None:
    compose.register()


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("joblib", "joblib"), ("submitit_local", "submitit"), ("submitit_slurm", "submitit"), ("ray", "ray")],
)
def test_a_launcher_that_is_absent_names_its_extra(run, monkeypatch, launcher, extra):
    monkeypatch.setattr("hydra_plugins.kvfrontier.sweeper._installed", lambda module: False)
    answer = run("method=dense", f"hydra/launcher={launcher}")
    assert answer.code == 2
    assert answer.err == f"kvfrontier: hydra/launcher={launcher} needs an extra: pip install 'kvfrontier[{extra}]'\n"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_the_defaults_of_a_launcher_compose(kvfrontier, launcher):
    shown = kvfrontier("run", f"hydra/launcher={launcher}", "--cfg", "hydra", "--package", "hydra.launcher")
    assert shown.code == 0, shown.err
    assert "_target_: hydra_plugins." in shown.out


def test_a_launcher_that_gives_up_is_said_and_what_is_recorded_is_kept(run, monkeypatch, tmp_path):
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    whole = BasicLauncher.launch

    def one_and_no_more(self, job_overrides, initial_job_idx):
        whole(self, job_overrides[:1], initial_job_idx)
        raise RuntimeError("its log:\nthe node is gone")

    monkeypatch.setattr(BasicLauncher, "launch", one_and_no_more)
    answer = run("-m", "method=dense,window", "--json")
    assert answer.code == 1
    assert "the launcher gave up (RuntimeError: the node is gone); jobs that it started may" in answer.err
    assert [cell["status"] for cell in json.loads(answer.out)["cells"]] == ["ok", "failed"]
    assert len(load_records(tmp_path / "results")) == 1


# ------------------------------------------------------------------------------------------ other machines


def test_auto_is_no_device_of_another_machine(quick, tmp_path):
    with pytest.raises(UsageError, match="device=auto is known only where a job runs"):
        plan([*quick, "method=dense"], [], tmp_path, away=Away())


def test_a_device_that_is_not_here_may_be_elsewhere(quick, tmp_path):
    (cell,) = plan([*quick, "method=dense", "device=cuda"], [], tmp_path, away=Away()).cells
    assert cell.to_run
    assert cell.cell.device == "cuda"


@pytest.mark.parametrize(("name", "there"), [(None, True), ("EPYC of elsewhere", True), ("another", False)])
def test_a_record_of_another_machine_counts_by_the_name_of_its_device(run, quick, tmp_path, name, there, monkeypatch):
    """What a job recorded on a node is not launched again from a machine with another processor."""
    with monkeypatch.context() as node:
        node.setattr("kvfrontier.runners.environment._processor", lambda: "EPYC of elsewhere")
        node.setattr("kvfrontier.runners.cell._environment", environment.describe)
        run("method=dense", "device=cpu", "worker.isolate=false")
    (record,) = load_records(tmp_path / "results")
    assert record.environment.device_name == "EPYC of elsewhere"
    (cell,) = plan([*quick, "method=dense", "device=cpu"], [], tmp_path / "results", away=Away(name)).cells
    assert cell.to_run != there
    (here,) = plan([*quick, "method=dense", "device=cpu"], [], tmp_path / "results").cells
    assert here.to_run, "on this machine it has not run"


def test_a_job_that_starts_again_runs_only_what_has_no_record(run, tmp_path, monkeypatch):
    """As Slurm does with a job that it had to stop: the same overrides, while records are there already."""
    run("-m", "method=dense", "seed=0,1,2")
    done = load_records(tmp_path / "results")
    for file in (tmp_path / "results").glob("*.jsonl"):
        file.unlink()
    # The sweep was planned when nothing was there.
    monkeypatch.setattr(cells, "briefs", lambda *folders: {})
    file = tmp_path / "results" / records_file(Path(), done[0].cell).name
    for record in done[:2]:
        append(file, record)
    run("-m", "method=dense", "seed=0,1,2")
    assert file.read_bytes().count(b"\n") == 3
