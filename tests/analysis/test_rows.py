"""Rows join what belongs together, and nothing else."""

from __future__ import annotations

import math

import pytest

from kvfrontier.analysis.boards import boards, pool
from kvfrontier.analysis.flat import table
from kvfrontier.analysis.stats import newcombe


def test_a_row_joins_the_tasks_of_one_method_at_one_context(records):
    (board,) = boards(records)
    assert board.contexts == [512, 1024, 2048]
    assert len(board.rows) == 39
    row = next(r for r in board.at(1024) if r.method == "kivi4")
    assert {c.name for c, a in row.answers.items() if a.score} == {
        "perplexity.agreement",
        "perplexity.perplexity",
        "perplexity.kl",
        "needle.accuracy",
    }
    assert row.memory.live_payload and row.memory.live_slack and row.memory.peak and row.memory.weights
    assert row.time.decode
    assert row.time.decode_tokens_per_second
    assert row.live == row.memory.live_payload + row.memory.live_slack
    assert row.over_weights(row.memory.peak) == row.memory.peak - row.memory.weights
    assert row.seconds_per_token == row.time.decode.median == 1 / row.time.decode_tokens_per_second
    assert len(row.records) == 2


def test_dense_comes_first_and_families_stay_together(records):
    (board,) = boards(records)
    methods = board.methods
    assert methods[:2] == ["dense", "recompute"]
    assert methods.index("kivi2") + 1 == methods.index("kivi4") == methods.index("kivi8") - 1


def test_two_task_hashes_are_two_columns_named_by_what_differs(cell_of):
    prompt = {"name": "needle", "compress_at": "prompt", "samples": 8}
    (board,) = boards(
        [
            cell_of("snapkv", task="needle"),
            cell_of("snapkv", task="needle", cell__task=prompt, quality__task_hash="other"),
        ]
    )
    context, asked = board.columns
    assert (context.name, context.flags) == ("needle (compress_at=context).accuracy", ())
    assert (asked.name, asked.flags) == ("needle (compress_at=prompt).accuracy", ("query-aware",))
    assert board.rows[0].flags == board.rows[0].flags_in(context) == ()
    assert board.rows[0].flags_in(asked) == ("query-aware",)
    assert board.headlines == [context, asked]


def test_a_query_aware_column_says_so_in_its_name_even_alone(cell_of):
    (board,) = boards([cell_of("snapkv", task="needle", cell__task={"name": "needle", "compress_at": "prompt"})])
    assert [c.name for c in board.columns] == ["needle (compress_at=prompt).accuracy"]


def test_hashes_that_no_parameter_tells_apart_are_still_two_columns(cell_of):
    (board,) = boards([cell_of("dense", task="needle"), cell_of("sinks", task="needle", quality__task_hash="abcdef99")])
    assert len({c.name for c in board.columns}) == 2
    assert all(sum(a.score is not None for a in row.answers.values()) == 1 for row in board.rows)


def test_the_number_of_samples_does_not_split_a_column(cell_of):
    more = {"name": "needle", "compress_at": "context", "samples": 16}
    (board,) = boards([cell_of("dense", task="needle"), cell_of("sinks", task="needle", cell__task=more)])
    assert [c.name for c in board.columns] == ["needle.accuracy"]


def test_machines_versions_and_ways_of_measuring_are_boards_of_their_own(cell_of):
    found = boards(
        [
            cell_of("dense"),
            cell_of("dense", environment__device_name="H200"),
            cell_of("dense", environment__threads=8),
            cell_of("dense", environment__torch="2.11.0"),
            cell_of("dense", cell__protocol={"chunk": None}),
            cell_of("dense", cell__batch=4),
            cell_of("dense", environment__git_revision="another"),
        ]
    )
    assert sorted(len(b.records) for b in found) == [1, 1, 1, 1, 1, 2]


def test_what_was_measured_over_other_tokens_is_not_put_beside(cell_of):
    (board,) = boards([cell_of("dense"), cell_of("window"), cell_of("sinks", time__prompt_tokens=5)])
    odd = next(r for r in board.rows if r.method == "sinks")
    assert odd.time.status == "skipped"
    assert odd.seconds_per_token is None
    assert "unlike the other rows" in odd.time.reason
    assert odd.live is not None


def test_results_of_older_code_are_left_out_and_counted(cell_of):
    old = cell_of("sinks", method_hash="old", created="2026-01-01T00:00:00Z")
    (board,) = boards([cell_of("sinks"), cell_of("sinks", task="needle"), old])
    (row,) = board.rows
    assert old.id not in row.records
    assert board.notes == ("1 record of older code of the same methods left out",)


def test_one_label_for_two_settings_is_told_apart(cell_of):
    wide = {"name": "window", "window": 512}
    (board,) = boards([cell_of("window"), cell_of("window", cell__method=wide)])
    assert board.methods == ["window (window=256)", "window (window=512)"]


def test_seeds_are_pooled(cell_of):
    first = cell_of("sinks", task="needle")
    second = cell_of("sinks", task="needle", cell__seed=1, quality__sample_set="other samples")
    (board,) = boards([first, second])
    (row,) = board.rows
    score = row.score(board.columns[0])
    single = first.quality.scores["accuracy"]
    assert score
    assert score.n == 16
    assert score.value == first.quality.scores["accuracy"].value
    assert score.high and score.low
    assert score.high - score.low < single.high - single.low


def test_perplexities_are_pooled_as_logarithms(cell_of):
    a = cell_of("dense", quality__scores__perplexity__value=4.0).quality
    b = cell_of("dense", quality__scores__perplexity__value=16.0).quality
    assert math.isclose(pool("perplexity", [a, b]).value, 8.0)


def test_the_drop_of_several_seeds_has_newcombe_s_interval_over_all_samples(cell_of):
    told = {"value": 0.0, "n": 3, "low": -0.5615, "high": 0.5615, "interval": "newcombe"}
    samples = ({"first": 1.0, "later": 1.0, "drop": 0.0},) * 3
    block = cell_of("dense", quality__samples=samples, quality__scores={"drop": told}).quality
    pooled = pool("drop", [block, block])
    low, high = newcombe([1.0] * 6, [1.0] * 6)
    assert (pooled.n, pooled.low, pooled.high, pooled.interval) == (6, low, high, "newcombe")
    assert -0.5615 < low < 0 < high < 0.5615


def test_without_samples_a_pooled_score_has_no_interval(cell_of):
    block = cell_of("dense", quality__samples=()).quality
    assert pool("agreement", [block, block]).interval == "none"


@pytest.mark.parametrize("status", ["oom", "infeasible", "failed"])
def test_what_failed_appears_as_such(cell_of, status):
    failed = cell_of(
        "snapkv",
        quality={"status": status, "reason": "why not"},
        memory={"status": status, "largest_fitting_context": 512},
        time={"status": status},
    )
    (board,) = boards([cell_of("dense"), failed])
    row = next(r for r in board.rows if r.method == "snapkv")
    assert (row.status, row.reason, row.live) == (status, "why not", None)
    assert {a.status for a in row.answers.values()} == {status}
    line = table([board]).filter(method="snapkv").to_dicts()[0]
    assert (line["status"], line["perplexity.agreement.status"], line["largest_fitting_context"]) == (
        status,
        status,
        512,
    )


def test_a_task_that_nobody_finished_is_not_lost(cell_of):
    (board,) = boards([cell_of("dense", quality={"status": "failed", "reason": "broke"})])
    assert not board.columns
    assert (board.rows[0].status, board.rows[0].reason) == ("failed", "broke")


def test_a_success_outweighs_an_earlier_failure(cell_of):
    (board,) = boards(
        [cell_of("dense"), cell_of("dense", quality={"status": "failed", "reason": "once"}, time={"status": "failed"})]
    )
    assert board.rows[0].status == "ok"


def test_the_table_has_one_row_a_method_and_context(records):
    flat = table(boards(records))
    assert flat.height == 39
    assert flat.select("method", "model", "device", "context", "batch").is_unique().all()
    assert flat["needle.accuracy"].null_count() == 26
    assert set(flat.filter(method="linear")["flags"]) == {"needs training; bounded"}
    snapkv = flat.filter(method="snapkv", context=1024).to_dicts()[0]
    assert (snapkv["perplexity.share16"], snapkv["share16"]) == (256 / 768, 256 / 1024)
    assert snapkv["perplexity.growth"] == 2
    assert snapkv["perplexity.final_payload_bytes"] == 2 * snapkv["perplexity.sealed_payload_bytes"]


def test_a_share_is_that_of_the_runs_that_gave_the_score(cell_of):
    (board,) = boards([cell_of("snapkv"), cell_of("snapkv", task="needle")])
    (row,) = board.rows
    by_text, by_needle = (next(c for c in board.headlines if c.task == task) for task in ("perplexity", "needle"))
    assert row.held(by_text).share == 256 / 768
    assert row.held(by_needle).share == 256 / 960
    assert row.memory.share16 == 256 / 1024
    assert row.held(by_text).own


def test_records_that_do_not_say_what_was_held_have_the_memory_pass_and_say_so(cell_of):
    (board,) = boards([cell_of("snapkv", quality__state=None)])
    (row,) = board.rows
    held = row.held(board.headlines[0])
    assert (held.share, held.final, held.own) == (row.memory.share16, row.memory.live_payload, False)
    assert row.grew(board.headlines[0]) is None
    assert table([board])["perplexity.share16"].null_count() == 1


def test_growth_is_of_what_does_not_stay_bounded(cell_of):
    (board,) = boards([cell_of(m) for m in ("dense", "window", "snapkv")])
    column = board.headlines[0]
    assert {row.method: row.grew(column) for row in board.rows} == {"dense": 1024 / 768, "window": None, "snapkv": 2.0}
    assert {row.method: row.flags for row in board.rows} == {"dense": (), "window": ("bounded",), "snapkv": ()}


def test_states_of_several_sample_sets_are_pooled_by_their_samples(cell_of):
    first = cell_of("dense", task="needle")
    other = {"sealed_tokens": 10, "sealed_payload": 300, "share16": 0.4, "final_payload": 600}
    few = cell_of(
        "dense", task="needle", cell__seed=1, quality__sample_set="other", quality__state=other,
        quality__samples=first.quality.samples[:4],
    )  # fmt: skip
    (board,) = boards([first, few])
    held = board.rows[0].held(board.headlines[0])
    assert first.quality.state is not None
    assert held.share == (8 * 1.0 + 4 * 0.4) / 12
    assert held.final == (8 * first.quality.state.final_payload + 4 * 600) / 12


def test_no_records_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="kvfrontier run"):
        boards([])
