"""The store in a sweep: on by default where scores are made, absent where time and peaks are taken, and in no id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.prefix import bench
from kvfrontier.runners.prefix.prefix import Prefixes
from kvfrontier.runners.prefix.settings import open_files
from kvfrontier.runners.record import Quality

QUICK = ("model=tiny", "context=384", "task.samples=2", "meter.decode_tokens=2", "meter.repetitions=1",
         "meter.warmups=0", "tracker=none")  # fmt: skip


@pytest.fixture(scope="module")
def composer() -> compose.Composer:
    compose.register()
    return compose.Composer(QUICK)


def quality(composer: compose.Composer, *words: str) -> Quality:
    """A cell's quality pass, as `Bench.run` does it."""
    config = composer(words).config
    cell = cells.describe(config)
    return cells.Bench(cell, config["model"]).quality(cell, open_files(config), lambda _: None)


def test_scores_are_the_same_with_the_store_and_the_record_says_so(composer, empty_cache: Path, tmp_path: Path) -> None:
    words = ("method=snapkv", "method.budget=64", "task=needle")
    off = quality(composer, *words, "prefix_store=off")
    assert not (empty_cache / "prefix").exists()
    on, again = (quality(composer, *words) for _ in range(2))
    assert [off.prefix_store, on.prefix_store, again.prefix_store] == [False, True, True]
    assert off == on.model_copy(update={"prefix_store": False})
    assert on == again
    assert len(list((empty_cache / "prefix").glob("*.safetensors"))) == 2  # two contexts, each in one chunk
    assert quality(composer, *words, f"prefix_store={tmp_path / 'own'}") == on
    assert len(list((tmp_path / "own").iterdir())) == 2


def test_where_a_prefix_came_from_is_in_no_id(composer) -> None:
    without, elsewhere = (cells.describe(composer([f"prefix_store={to}"]).config) for to in ("off", "/scratch"))
    assert cells.identify(without) == cells.identify(elsewhere)


def test_what_does_not_begin_with_dense_attention_does_without(composer, empty_cache: Path) -> None:
    assert not quality(composer, "method=window", "method.window=64", "task=needle").prefix_store
    assert list((empty_cache / "prefix").iterdir()) == []


def test_perplexity_and_its_dense_reference_share_one_prefix(tmp_path: Path) -> None:
    store = tmp_path / "own"
    composer = compose.Composer([*(word for word in QUICK if not word.startswith("task.")), f"prefix_store={store}"])
    for method in ("dense", "kivi2", "window"):
        found = quality(composer, f"method={method}", "task=perplexity", "task.scored=32", "task.texts=[hamlet]")
        assert found.status == "ok", found.reason
        assert found.prefix_store == (method != "window")
        assert len(list(store.iterdir())) == 1


def test_no_measurement_of_time_or_peak_touches_the_store(composer, empty_cache: Path, monkeypatch) -> None:
    """Whoever asks it outside of a task is found out."""
    asked: list[str] = []
    of, now = Prefixes.of, ["task"]

    def watched(self: Prefixes, *arguments: Any) -> Any:
        asked.append(now[0])
        return of(self, *arguments)

    measure = cells.Bench._measure

    def measuring(self: cells.Bench, *arguments: Any) -> Any:
        now[0] = "measurement"
        return measure(self, *arguments)

    monkeypatch.setattr(Prefixes, "of", watched)
    monkeypatch.setattr(cells.Bench, "_measure", measuring)
    config = composer(["method=dense", "task=needle"]).config
    cell = cells.describe(config)
    found = cells.Bench(cell, config["model"]).run(cell, config, lambda _: None)
    assert found.quality.prefix_store
    assert found.memory.status == found.time.status == "ok"
    assert now == ["measurement"]
    assert set(asked) == {"task"}


def test_bad_settings_are_said_before_anything_runs(composer) -> None:
    with pytest.raises(UsageError, match="prefix_store_size"):
        cells.describe(composer(["prefix_store_size=lots"]).config)


def test_records_without_the_setting_have_the_usual_one(composer) -> None:
    config = {k: v for k, v in composer([]).config.items() if not k.startswith("prefix")}
    assert cells.describe(config) == cells.describe(composer([]).config)


def test_the_benchmark_compares_like_with_like(tmp_path: Path, empty_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "METHODS", ("dense", "snapkv"))
    monkeypatch.setattr(bench, "TASKS", ("needle",))
    words = ["model=tiny", "task.samples=1"]
    found = bench.run(lambda _: None, words=words, context=384, only=["cells"])
    assert [row.goal for row in found.rows] == [None, 3]
    assert all(row.without > 0 and row.with_store > 0 for row in found.rows)
    page = bench.write(found, tmp_path).read_text()
    assert f"| {found.rows[-1].ratio:.2f} | 3 | {'yes' if found.rows[-1].holds else 'no'} |" in page
    assert bench.Benchmark.model_validate_json((tmp_path / "prefix_bench.json").read_text()) == found
    with pytest.raises(UsageError, match="no part 'all'"):
        bench.run(lambda _: None, words=words, only=["all"])


@pytest.mark.slow
def test_a_sweep_beside_a_process_a_cell(tmp_path: Path) -> None:
    words = ["model=tiny", "meter.repetitions=1", "meter.warmups=0"]
    found = bench.run(lambda _: None, words=words, sweep="smoke", only=["sweep"])
    (row,) = found.rows
    assert "8 cells" in row.claim
    assert row.ratio > 1
