"""Workloads: their sizes by hand, what is wrong said, and each of them read by plan and by the allocators."""

import json

import pytest

from kvfrontier.runners import cli, compose, workloads
from kvfrontier.runners.allocators.requests import Request, Traffic
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words
from kvfrontier.runners.workloads import Batch

SEED = ("batch_short", "single_long", "long_document", "chat", "rag", "agent", "code_completion")


@pytest.mark.parametrize("name", SEED)
def test_each_says_what_it_is_and_knows_its_name(name):
    assert workloads.load(name).name == name
    assert compose.comment("workload", name).endswith(".")


def test_a_short_batch_and_a_long_text_have_as_many_tokens():
    short, long = workloads.load("batch_short"), workloads.load("single_long")
    assert (short.count, short.longest, short.tokens) == (32, 500, 16_000)
    assert (long.count, long.longest, long.tokens) == (1, 16_000, 16_000)


def test_sizes_worked_out_by_hand():
    mixed = workloads.make(
        {
            "name": "mixed",
            "requests": [
                {"prompt": 100, "new": 5},
                {"count": 2, "prompt": 40, "new": 5},
                {"count": 3, "prompt": 70, "shared": 60, "new": 2},
                {"prompt": 10, "new": 4, "turns": 3, "follow": 6},
            ],
        }
    )
    assert mixed.count == 7
    assert mixed.longest == 105
    assert mixed.tokens == 105 + 2 * 45 + 3 * 72 + (10 + 2 * 6 + 3 * 4)
    assert mixed.shared == 2 * 60
    assert mixed.padding == 2 * 60
    assert mixed.batches == [
        Batch((100, 40, 40), 5),
        Batch((10,), 4, 0, 3, 6),
        Batch((70, 70, 70), 2, 60),
    ]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"prompt": 3, "new": 1, "shared": 3}, "leaves nothing of prompt=3"),
        ({"prompt": 3, "new": 1, "turns": 2}, "each turn after the first reads something"),
        ({"prompt": 3, "new": 0}, r"workload\.requests\.0\.new"),
        ({"prompt": 3, "new": 1, "turn": 2}, r"workload\.requests\.0\.turn: "),
    ],
)
def test_what_is_no_workload_says_so(request_, says):
    with pytest.raises(UsageError, match=says):
        workloads.make({"name": "x", "requests": [request_]})


def test_a_name_that_is_near_is_suggested():
    with pytest.raises(UsageError, match="did you mean 'chat'"):
        workloads.load("chatt")


def test_the_allocators_serve_the_same_requests():
    served = Traffic("rag").requests()
    assert served == [Request(1600, 8, group="0", prefix=1536)] * 8
    assert [r.total for r in Traffic("code_completion").requests()] == [2056, 1032, 520, 520, 136, 136, 136, 136]
    assert Traffic("chat").requests()[0].total == workloads.load("chat").longest


def test_a_plan_takes_as_many_rows_as_requests_each_as_long_as_the_longest():
    (asked,) = words.read(["model=tiny", "workload=code_completion"])
    assert (asked.cell.batch, asked.cell.context, asked.new) == (8, 2056, 8)
    short, long = words.read(["model=tiny", "workload=batch_short,single_long"])
    assert (short.cell.batch, long.cell.batch) == (32, 1)
    with pytest.raises(UsageError, match="says both batch and context"):
        words.read(["model=tiny", "workload=chat", "batch=2"])


def test_they_are_listed(capfd):
    assert cli.main(["list", "workloads", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["rag"]["shared"] == 7 * 1536
    assert set(rows) >= set(SEED)
