"""A try in a process of its own: its death is a result, and the next one lives."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import meter
from kvfrontier.runners.search import process
from kvfrontier.runners.search.probe import Request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")

MODEL = {
    "kind": "tiny", "layers": 1, "heads": 8, "kv_heads": 8, "head_dim": 64, "dtype": "float32", "device": "cpu",
}  # fmt: skip


def request(**changes) -> Request:
    plain = Request(
        model=MODEL, method=registry.complete({"name": "dense"}), context=256, batch=1, new=2, chunk=128, seed=0,
        threads=1, rate=meter.Bandwidth(1e9),
    )  # fmt: skip
    return replace(plain, **changes)


def test_a_try_reports_its_sizes_its_seconds_and_what_held_it():
    held = process.look("cpu", None, 1)
    assert held.bytes > held.baseline > 0
    limit, report = process.run(request(limit=held.bytes))
    assert report.time.status == report.memory.status == "ok"
    # 256 tokens, keys and values, 8 heads of 64 elements of 4 bytes.
    assert report.memory.live_payload == report.memory.analytic_payload == 256 * 2 * 8 * 64 * 4
    assert report.time.prefill is not None
    assert report.time.decode is not None
    assert limit is not None
    assert limit.resident_peak is not None
    assert limit.resident_peak > 256 * 2 * 8 * 64 * 4
    assert report.model["license"] == "none: random weights"


def test_memory_that_runs_out_is_a_result_and_the_next_try_lives():
    held = process.look("cpu", None, 1)
    room = 24 << 20  # the weights take 2 MiB, and 4,096 tokens 16 MiB and as much again while they move
    short = request(limit=held.baseline + room)
    assert process.run(short)[1].time.status == "ok"
    _, report = process.run(replace(short, context=8192))
    assert report.time.status == report.memory.status == "oom"
    assert "memory" in report.time.reason
    assert process.run(short)[1].time.status == "ok"
    bounded = registry.complete({"name": "window", "window": 64})
    assert process.run(replace(short, context=8192, method=bounded))[1].time.status == "ok"


def test_a_killed_try_is_out_of_memory_and_the_next_one_lives():
    def kill() -> None:
        while True:
            for child in multiprocessing.active_children():
                if child.name == "kvfrontier-probe" and child.pid:
                    os.kill(child.pid, signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    _, report = process.run(request(context=4096, repetitions=100))
    killer.join()
    assert report.time.status == "oom"
    assert report.time.reason.startswith("the process was killed (SIGKILL)")
    assert process.run(request())[1].time.status == "ok"


def test_random_weights_need_the_architecture_alone_and_may_go_past_its_positions():
    smollm2 = {
        "kind": "embedded", "name": "smollm2-135m", "dtype": "float32", "device": "cpu",
        "architecture": {
            "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
        },
    }  # fmt: skip
    asked = request(model=smollm2, weights="random")
    _, refused = process.run(asked)
    assert refused.time.status == "failed"
    assert "128 positions" in refused.time.reason
    _, report = process.run(replace(asked, beyond_positions=True))
    assert report.time.status == "ok"
    assert report.model["revision"] == "random weights"


def test_what_goes_wrong_otherwise_is_a_failure():
    _, report = process.run(request(model={**MODEL, "heads": 7}))
    assert report.time.status == "failed"
    assert "does not divide" in report.time.reason


@pytest.mark.parametrize(
    ("code", "said", "kills", "status", "words"),
    [
        (-9, "", 0, "oom", "the process was killed (SIGKILL)"),
        (0, "", 1, "oom", "the process was killed (SIGKILL)"),
        (-6, "terminate called\n  what():  std::bad_alloc", 0, "oom", "the process died of SIGABRT:   what():"),
        (1, "Traceback\nMemoryError", 0, "oom", "the process ended with code 1: MemoryError"),
        (-11, "", 0, "failed", "the process died of SIGSEGV"),
        (1, "Traceback\nKeyError: 'gate'", 0, "failed", "the process ended with code 1: KeyError: 'gate'"),
    ],
)
def test_what_a_process_died_of(code, said, kills, status, words):
    found = process.death(code, said, kills)
    assert found[0] == status
    assert found[1].startswith(words)
