"""The tracker: every metric is in the file that W&B writes, and nothing that goes wrong with W&B stops the work."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import (
    Cell,
    Environment,
    Memory,
    MethodInfo,
    Parts,
    Quality,
    Quartiles,
    Record,
    Score,
    Time,
)
from kvfrontier.runners.tracker import TrackerWarning, WandbSettings, parse, track
from kvfrontier.runners.tracker.metrics import flat, metrics

OFFLINE = {"name": "wandb", "mode": "offline", "timeout": 8}


def record(context: int, task: dict[str, Any] | None = None, task_hash: str = "1234567890") -> Record:
    # A value of its own for every number that a memory block can hold.
    counts: Any = {
        k: context + i for i, (k, f) in enumerate(Memory.model_fields.items()) if f.annotation in (int, int | None)
    }
    quartiles = Quartiles(median=context / 100, q1=context / 200, q3=context / 50, n=3)
    return Record(
        id=f"id-{context}",
        created="2026-11-23T12:00:00+00:00",
        cell=Cell(
            model="tiny",
            dtype="float32",
            device="cpu",
            method={"name": "kivi"},
            task=task or {"name": "needle"},
            protocol={},
            context=context,
        ),
        info=MethodInfo(family="store", label="kivi2"),
        method_hash="0",
        protocol_hash="0",
        environment=Environment(
            device_name="EPYC",
            device_kind="cpu",
            threads=1,
            platform="Linux",
            python="3.11",
            torch="2.13.0",
            transformers="5.23.0",
            kvfrontier="0.1.0",
        ),
        config={},
        quality=Quality(
            status="ok",
            task_hash=task_hash,
            samples=tuple({"keys": ["a", "b"], "generation": f"answer {i}", "recall": 0.5} for i in range(2)),
            scores={"accuracy": Score(value=0.5, n=8, low=0.25, high=0.75), "kl": Score(value=0.125, n=8)},
        ),
        memory=Memory(status="ok", **counts, share16=0.25, prefill_parts=Parts(state=3), decode_parts=Parts(state=2)),
        time=Time(
            status="ok",
            repetitions=3,
            warmups=1,
            prompt_tokens=context,
            decoded_tokens=8,
            chunk=512,
            prefill=quartiles,
            decode=quartiles,
            prefill_tokens_per_second=100.0,
            decode_tokens_per_second=10.0,
            mbu=0.5,
            copy_bandwidth=2e10,
            read_bandwidth=3e10,
        ),
    )


# ------------------------------------------------------------------------------------------ names


def test_every_number_of_a_record_has_a_name():
    one: Any = record(512)
    shown = metrics(one)
    assert shown["context"] == 512
    assert shown["record"] == "id-512"
    assert shown["quality/needle/accuracy"] == 0.5
    assert shown["quality/needle/accuracy/low"] == 0.25
    assert shown["quality/needle/accuracy/high"] == 0.75
    assert shown["time/prefill/median"] == 5.12
    assert shown["memory/live"] == one.memory.live_payload + one.memory.live_slack
    assert shown["memory/peak_less_weights"] == one.memory.peak - one.memory.weights
    for key in Memory.model_fields:
        parts = [f"{key}/{part}" for part in Parts.model_fields] if key.endswith("_parts") else [key]
        assert key in ("reason", "failure") or all(f"memory/{part}" in shown for part in parts)
    for key in Time.model_fields:
        assert key in ("reason", "failure") or f"time/{key}" in shown or f"time/{key}/median" in shown


def test_what_was_not_measured_is_left_out():
    one = record(512).model_copy(
        update={"memory": Memory(status="oom", reason="too large"), "time": Time(status="failed")}
    )
    shown = metrics(one)
    assert shown["memory/status"] == "oom"
    assert not [key for key, value in shown.items() if value is None]
    assert not {"memory/peak", "memory/live", "time/prefill/median"} & shown.keys()


def test_compressing_at_the_prompt_is_another_curve():
    assert "quality/needle_prompt/accuracy" in metrics(record(512, {"name": "needle", "compress_at": "prompt"}))
    assert "quality/needle/accuracy" in metrics(record(512, {"name": "needle", "compress_at": "context"}))


# ------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "comet"}, "there is no tracker 'comet'; choose one of: none, wandb, tensorboard"),
        ({"name": "wandb", "mode": "loud"}, "tracker.mode='loud': choose one of: offline, online; or tracker=none"),
        ({"name": "wandb", "projct": "x"}, "tracker.projct='x': Extra inputs are not permitted"),
        ({"name": "wandb", "timeout": "long"}, "tracker.timeout='long': "),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, words):
    with pytest.raises(UsageError) as error:
        parse(settings)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["none", "wandb"])
def test_the_configuration_is_understood(name):
    from omegaconf import OmegaConf

    file = Path(__file__).parents[3] / "configs" / "tracker" / f"{name}.yaml"
    kind, wanted = parse(OmegaConf.to_container(OmegaConf.load(file)))  # pyright: ignore[reportArgumentType]
    assert kind == name
    assert not isinstance(wanted, WandbSettings) or wanted.mode == "offline", "without an account"


@pytest.mark.parametrize("name", ["tensorboard"])
def test_a_tracker_whose_library_is_absent_names_its_extra(name, monkeypatch):
    monkeypatch.setattr("kvfrontier.runners.tracker.find_spec", lambda library: None)
    with pytest.raises(UsageError, match=rf"tracker={name} needs an extra: pip install 'kvfrontier\[{name}\]'"):
        parse({"name": name})


def test_whatever_goes_wrong_in_a_tracker_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    class Broken:
        def log(self, record):
            raise OSError("the\ndisk is full")

    monkeypatch.setattr("kvfrontier.runners.tracker._open", lambda *_: Broken())
    with track(OFFLINE, name="job", config={}, folder=tmp_path) as tracker:
        with pytest.warns(TrackerWarning, match=r"the tracker stopped \(the disk is full\)"):
            tracker.log(record(512))
        tracker.log(record(1024))


def test_none_writes_nothing(tmp_path):
    with track({"name": "none"}, name="job", config={}, folder=tmp_path) as tracker:
        tracker.log(record(512))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ W&B's file


def read(folder: Path, patience: float = 20) -> dict[str, Any]:
    """What the one .wandb file below `folder` holds. W&B's own process closes it a moment after the run's end."""
    (file,) = folder.rglob("*.wandb")
    deadline = time.monotonic() + patience
    while (found := decoded(file))["exit"] is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def decoded(file: Path) -> dict[str, Any]:
    """LevelDB's log format around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry  # pyright: ignore[reportAttributeAccessIssue]

    found: dict[str, Any] = {"history": [], "tables": [], "artifacts": [], "stats": 0}
    found |= {"config": {}, "steps": {}, "summary": {}, "exit": None}
    for data in chunks(file.read_bytes()):
        entry = Entry()
        entry.ParseFromString(data)
        match entry.WhichOneof("record_type"):
            case "run":
                found["run"], found["config"] = entry.run, items(entry.run.config.update)
            case "config":
                found["config"] |= items(entry.config.update)
            case "history":
                row = items(entry.history.item)
                found["tables" if any(key.startswith("samples/") for key in row) else "history"].append(row)
            case "artifact":
                found["artifacts"].append(entry.artifact)
            case "stats":
                found["stats"] += 1
            case "metric":
                found["steps"][entry.metric.name or entry.metric.glob_name] = entry.metric.step_metric
            case "summary":
                found["summary"] |= items(entry.summary.update)
            case "exit":
                found["exit"] = entry.exit.exit_code
    return found


def items(entries: Any) -> dict[str, Any]:
    """Keys and values; of a value with parts, each part by its path."""
    found: dict[str, Any] = {}
    for entry in entries:
        key, value = entry.key or ".".join(entry.nested_key), json.loads(entry.value_json)
        found |= {f"{key}.{part}": v for part, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def chunks(data: bytes) -> Iterator[bytes]:
    block, head, at, parts = 32768, 7, 7, b""
    while at + head <= len(data):
        left = block - at % block
        crc, size, kind = struct.unpack("<IHB", data[at : at + head])
        if left < head or kind == 0:  # padding to the end of a block
            at += left
            continue
        part = data[at + head : at + head + size]
        if len(part) < size:  # still being written
            return
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == crc
        at += head + size
        parts += part
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def test_the_offline_file_holds_every_metric(tmp_path):
    records = [record(context) for context in (512, 1024, 2048)]
    config = {"method": {"name": "kivi", "bits": 2}, "model": "tiny"}
    with track({**OFFLINE, "tags": ["a"]}, name="kivi2 tiny", config=config, folder=tmp_path / "sweep") as tracker:
        for one in records:
            tracker.log(one)
    found = read(tmp_path)
    assert len(found["history"]) == 3
    for one, row in zip(records, found["history"], strict=True):
        assert metrics(one).items() <= row.items()
    assert metrics(records[-1]).items() <= found["summary"].items()
    assert found["config"].items() >= flat(config).items()
    told = {"method.bits": 2, "method_label": "kivi2", "environment.torch": "2.13.0", "environment.device_name": "EPYC"}
    assert found["config"].items() >= told.items(), "flat, so that every value is a column of W&B's table"
    assert (found["run"].display_name, found["run"].run_group, found["run"].project) == (
        "kivi2 tiny",
        "sweep",
        "kvfrontier",
    )
    assert list(found["run"].tags) == ["a"]
    assert found["steps"]["*"] == "context", "so that curves over the context appear by themselves"
    assert found["exit"] == 0


def test_samples_are_a_table_and_the_records_file_an_artifact(tmp_path):
    (tmp_path / "kivi.jsonl").write_text("the records\n")
    with track(OFFLINE, name="kivi", config={}, folder=tmp_path) as tracker:
        for context in (512, 1024):
            tracker.log(record(context))
    found = read(tmp_path)
    (row,) = found["tables"]
    (file,) = tmp_path.rglob(Path(row["samples/needle.path"]).name)
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
    assert [(r["context"], r["sample"], r["generation"], r["keys"]) for r in rows] == [
        (context, i, f"answer {i}", '["a", "b"]') for context in (512, 1024) for i in range(2)
    ]
    (kept,) = [a for a in found["artifacts"] if a.type == "records"]
    assert [entry.path for entry in kept.manifest.contents] == ["kivi.jsonl"]


def test_without_samples_there_is_no_table(tmp_path):
    with track({**OFFLINE, "samples": False}, name="kivi", config={}, folder=tmp_path) as tracker:
        tracker.log(record(512))
    assert not read(tmp_path)["tables"]


@pytest.mark.parametrize("seconds", [15, None])
def test_the_machine_is_sampled_where_that_is_asked_for(tmp_path, seconds):
    with track({**OFFLINE, "system_metrics": seconds}, name="kivi", config={}, folder=tmp_path) as tracker:
        tracker.log(record(512))
    assert bool(read(tmp_path)["stats"]) == (seconds is not None)


def fail(name: str, folder: Path) -> None:
    with track(OFFLINE, name=name, config={}, folder=folder) as tracker:
        tracker.log(record(512))
        raise KeyError


def test_each_job_is_a_run_and_a_failed_one_says_so(tmp_path):
    for name in "ab":
        with pytest.raises(KeyError):
            fail(name, tmp_path / name)
        found = read(tmp_path / name)
        assert (found["run"].display_name, len(found["history"]), found["exit"]) == (name, 1, 1)


def test_another_task_hash_is_another_curve(tmp_path):
    with track(OFFLINE, name="job", config={}, folder=tmp_path) as tracker:
        for task_hash in ("aaaaaa", "bbbbbb", "aaaaaa"):
            tracker.log(record(512, task_hash=task_hash))
    names = [{key.split("/")[1] for key in row if key.endswith("/accuracy")} for row in read(tmp_path)["history"]]
    assert names == [{"needle"}, {"needle-bbbb"}, {"needle"}]


# ------------------------------------------------------------------------------------------ trouble


@pytest.fixture
def account(monkeypatch):
    """One that no server knows."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


def log_online(folder: Path, jobs: int = 1) -> None:
    for _ in range(jobs):
        with track({**OFFLINE, "mode": "online"}, name="job", config={}, folder=folder) as tracker:
            tracker.log(record(512))


def test_online_without_an_account_asks_for_none_and_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    words = rf"out of reach \(no account is set up here; `wandb login` does it\).*: wandb sync {tmp_path}/wandb"
    with pytest.warns(TrackerWarning, match=words):
        log_online(tmp_path)
    assert len(read(tmp_path)["history"]) == 1


def test_wandbs_own_switch_is_respected(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.warns(TrackerWarning, match="WANDB_MODE=offline is set"):
        log_online(tmp_path)
    assert len(read(tmp_path)["history"]) == 1


@pytest.mark.usefixtures("account")
def test_a_server_that_cannot_be_reached_costs_no_minutes(tmp_path, monkeypatch):
    import wandb

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb.login", lambda prompt, verify: True)
    settings = wandb.Settings(base_url=f"http://127.0.0.1:{port}")
    monkeypatch.setattr("wandb.setup", lambda: type("Setup", (), {"settings": settings}))
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    begun = time.monotonic()
    with pytest.warns(TrackerWarning, match=r"W&B is out of reach \(127\.0\.0\.1: "):
        log_online(tmp_path)
    assert time.monotonic() - begun < 15
    assert len(read(tmp_path)["history"]) == 1


def test_a_server_that_refuses_is_as_good_as_none(tmp_path, monkeypatch):
    from kvfrontier.runners.tracker import wandb as module

    init = module.init

    def refusing(wandb, wanted, *, mode, **rest):
        if mode == "online":
            raise wandb.errors.CommError("returned error 403:\n permission denied")
        return init(wandb, wanted, mode=mode, **rest)

    monkeypatch.setattr(module, "init", refusing)
    monkeypatch.setattr(module, "why_offline", lambda wandb, timeout: "")
    with pytest.warns(TrackerWarning, match=r"\(returned error 403: permission denied\)") as said:
        log_online(tmp_path, jobs=2)
    assert len(said) == 1, "once a sweep, not once a job"
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


def test_a_folder_that_wandb_cannot_use_stops_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("kvfrontier.runners.tracker.wandb.init", broken)
    with (
        pytest.warns(TrackerWarning, match=r"cannot keep this run \(no space left\); the records are complete"),
        track(OFFLINE, name="job", config={}, folder=tmp_path) as tracker,
    ):
        tracker.log(record(512))


DYING = """
import sys, psutil
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_wandb import OFFLINE, record
from kvfrontier.runners.tracker import track
with track(OFFLINE, name="job", config={{}}, folder=Path({folder!r})) as tracker:
    tracker.log(record(512))
    for child in psutil.Process().children(recursive=True):
        child.kill()
        child.wait()
    for context in (1024, 2048):
        tracker.log(record(context))
with track(OFFLINE, name="next", config={{}}, folder=Path({folder!r})) as tracker:
    tracker.log(record(512))
print("the work went on")
"""


@pytest.mark.slow
def test_wandbs_own_process_may_die(tmp_path):
    # A process of its own: W&B would share this one's.
    own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_SERVICE")}
    script = DYING.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=own)
    assert done.stdout == "the work went on\n", done.stderr
    assert done.stderr.count("W&B stopped taking this run (Connection lost)") == 1
    assert done.returncode == 0
