"""Whole searches on a tiny model under a real limit, and what is predicted of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import cli, compose
from kvfrontier.runners.plan.peaks import Run, peaks
from kvfrontier.runners.record import load_records
from kvfrontier.runners.search import process
from kvfrontier.runners.search.predict import Prediction

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")

#: Keys and values of a token take 32 KiB.
TINY = [
    "model=tiny", "model.layers=4", "model.heads=8", "model.kv_heads=8", "model.head_dim=128",
    "model.max_context=4096", "device=cpu", "tracker=none", "protocol.chunk=128",
    "meter.decode_tokens=2", "meter.repetitions=1", "meter.warmups=0", "worker.isolate=false",
]  # fmt: skip


def run(capfd: Any, *args: str) -> tuple[int, Any, str]:
    code = cli.main(["run", *TINY, *args, "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def within(mebibytes: int) -> str:
    """A limit of so much beyond what a process has before it loads a model."""
    return f"memory_limit={process.look('cpu', None, 1).baseline + (mebibytes << 20)}"


def test_dense_has_a_wall_and_a_window_has_none(capfd, tmp_path):
    args = [
        "-m",
        "+search=max_context",
        "method=dense,window",
        "search.start=256",
        "search.most=4096",
        within(80),
        f"results={tmp_path}",
    ]
    code, first, err = run(capfd, *args)
    assert code == 0, err
    dense, window = (r.search for r in sorted(load_records(tmp_path), key=lambda r: r.info.label))
    assert dense is not None
    assert window is not None
    tried = {p.size: p for p in dense.probes}
    assert dense.bound == dense.predicted_bound == "memory"
    assert 256 < (dense.found or 0) < 4096
    assert dense.found in tried
    assert tried[dense.found].status == "ok"
    assert dense.found * 32768 <= (tried[dense.found].state or 0) <= dense.found * 32768 * 9 / 8
    assert tried[dense.found + 128].status == "oom"
    assert dense.predicted is not None
    assert dense.predicted >= dense.found
    assert (window.found, window.bound, window.predicted) == (4096, "most", 4096)
    assert len({p.state for p in window.probes}) == 1
    assert [c["found"]["found"] for c in first["cells"]] == [dense.found, 4096]
    code, again, _ = run(capfd, *args)
    assert (code, again["ran"], again["recorded"]) == (0, 0, 2)


def test_positions_end_what_memory_does_not(capfd, tmp_path):
    args = ["+search=max_context", "method=dense", "model.max_context=512", "search.start=256", within(200)]
    code, _, err = run(capfd, *args, f"results={tmp_path}")
    assert code == 0, err
    (record,) = load_records(tmp_path)
    assert record.search is not None
    assert (record.search.found, record.search.bound, record.search.predicted_bound) == (512, "positions", "positions")


def test_the_largest_batch_is_found_with_its_speed(capfd, tmp_path):
    code, _, err = run(
        capfd, "+search=max_throughput", "context=512", "search.most=64", within(80), f"results={tmp_path}"
    )
    assert code == 0, err
    (record,) = load_records(tmp_path)
    search = record.search
    assert search is not None
    assert search.bound == "memory"
    assert search.found is not None
    assert 1 < search.found < 8
    assert [p.status for p in search.probes if p.size == search.found + 1] == ["oom"]
    assert record.cell.batch == 1
    assert record.memory.live_payload == search.found * 512 * 32768
    assert record.time.decode is not None
    assert record.time.decode_tokens_per_second == pytest.approx(search.found / record.time.decode.median)


# Into 12 MiB the weights go, and not the keys and values of 384 tokens: what fails is a tensor of torch, which says so.
@pytest.mark.parametrize(("room", "status"), [(12, "oom"), (100, "ok")])
def test_a_limit_makes_out_of_memory_a_record_of_a_plain_run(capfd, tmp_path, room, status):
    code, shown, err = run(capfd, "task=needle", "task.samples=1", "context=384", within(room), f"results={tmp_path}")
    assert code == 0, err
    (record,) = load_records(tmp_path)
    assert record.memory.status == record.time.status == record.status == shown["cells"][0]["status"] == status
    assert record.quality.status == "ok"
    if status == "ok":
        assert record.limit is not None
        assert record.limit.bytes == record.cell.memory_limit
        assert record.limit.baseline < record.limit.bytes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["memory_limit=lots"], "memory_limit='lots' is no amount of memory"),
        (["+search=max_context", "budget=25%"], "a budget depends on the context"),
        (["+search=max_context", "search.start=2"], "search.start=2 is no more than meter.decode_tokens=2"),
        (["+search=max_context", "search.most=0"], "search.most=0: input should be greater than or equal to 1"),
        (["+search=max_context", "search.start=9000"], "9000 tokens are more than the 4096 positions"),
        (["+search=max_contxt"], "did you mean 'max_context'?"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(capfd, tmp_path, args, words):
    code, _, err = run(capfd, *args, f"results={tmp_path}")
    assert code == 2
    assert words in err
    assert load_records(tmp_path) == []


def prediction(*args: str) -> tuple[Prediction, dict[str, Any]]:
    compose.register()
    config = compose.Composer([*TINY, "+search=max_context", "search.beyond_positions=true", *args])().config
    return Prediction(cells.describe(config), config["model"]), config["model"]


def test_where_nothing_grows_any_more_the_peak_is_not_simulated_again(empty_cache):
    found, model = prediction("method=window")
    known = found.peak(1024, most=1 << 20)
    assert found.peak(1 << 20, most=1 << 20) == known
    longer = peaks(
        Run({**model, "dtype": "float32"}, registry.complete({"name": "window"}), 1, 2048 - 2, new=2, chunk=128)
    )
    assert known == max(longer.prefill, longer.decode)


def test_where_the_state_grows_every_peak_is_simulated(empty_cache):
    found, _ = prediction("method=dense", "search.start=512")
    assert found.peak(1024, most=2048) - found.peak(512, most=2048) >= 512 * 32768
    room = found.peak(1024, most=2048)
    assert found.largest(room, 2048, "most") == (1024, "memory")
    assert found.largest(room - 1, 2048, "most") == (896, "memory")
    assert found.largest(1 << 40, 2048, "most") == (2048, "most")
    assert found.largest(1, 2048, "most") == (0, "memory")
