"""What the harness itself takes, measured on a tiny model and short samples."""

from __future__ import annotations

import time

import torch

from kvfrontier.runners import bench_tasks


def test_the_model_s_forwards_are_all_that_is_not_the_harness(tiny, monkeypatch):
    monkeypatch.setattr(bench_tasks.models, "load", lambda _: tiny)
    (row,) = bench_tasks.overhead(7, lambda _: None)
    assert row.n == 7
    assert 0 < row.value < 1
    assert row.goal == 0.05


def test_seconds_of_every_forward_are_caught_and_nothing_stays_on_the_model(tiny):
    ids = torch.arange(8)[None]
    with bench_tasks.forwards(tiny) as spent:
        start = time.perf_counter()
        for _ in range(3):
            tiny.model(ids)
        took = time.perf_counter() - start
    tiny.model(ids)
    assert len(spent) == 3
    assert 0 < sum(spent) < took


def test_the_time_of_fifty_samples_is_told_from_a_few(tiny, monkeypatch):
    monkeypatch.setattr(bench_tasks, "RULER", ("niah_single_1", "ruler_fwe"))
    monkeypatch.setattr(bench_tasks, "_LONG", 3000)
    monkeypatch.setattr(bench_tasks, "_MADE", 1)
    monkeypatch.setattr(bench_tasks.models, "tokenizer", lambda _: tiny.tokenizer)
    made: list[str] = []
    (row,) = bench_tasks.samples(7, made.append)
    assert len(made) == 2
    assert row.absolute == f"{row.value * 600:.0f} s"
    assert row.value > 0


def test_ruler_s_tasks_are_thirteen():
    assert len(bench_tasks.RULER) == 13
    assert bench_tasks.RULER.count("cloze_qa") == 2
