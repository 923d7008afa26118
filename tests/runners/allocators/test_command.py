"""The command: words, rows, and the published figure."""

import json

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.allocators import published, words
from kvfrontier.runners.allocators.published import Compared, verdict
from kvfrontier.runners.errors import UsageError

#: Bytes of a token of the tiny model: 2 layers, 2 heads, 32 dimensions, keys and values, 2 bytes.
TOKEN = 2 * 2 * 32 * 2 * 2
TINY = ("model=tiny", "memory=1MiB", "max_length=2048", "count=60")


@pytest.fixture
def allocate(capfd):
    def rows(*asked):
        assert cli.main(["allocate", *asked, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    return rows


def test_rows_carry_shares_that_sum_to_one_and_what_fits(allocate):
    rows = allocate(*TINY)
    assert [row["policy"] for row in rows] == ["max", "pow2", "oracle", "paged"]
    for row in rows:
        assert row["capacity_tokens"] == (1 << 20) // TOKEN
        shares = [row[f"{part}_share"] for part in ("tokens", "reserved", "internal", "external", "idle")]
        assert sum(shares) == pytest.approx(1)
        assert row["finished"] + row["rejected"] == row["requests"] == 60
    tokens = [row["tokens_share"] for row in rows]
    assert tokens == sorted(tokens)
    fit = [row["fit_at_once"] for row in rows]
    assert fit == sorted(fit)


def test_commas_make_a_product_and_what_is_of_no_concern_makes_no_line():
    cases = words.read([*TINY, "policy=max,paged", "block=1,16", "requests=32x500,1x1600"])
    assert [(c.traffic.lengths, c.policy, c.block) for c in cases] == [
        ("32x500", "max", None), ("32x500", "paged", 1), ("32x500", "paged", 16),
        ("1x1600", "max", None), ("1x1600", "paged", 1), ("1x1600", "paged", 16),
    ]  # fmt: skip


def test_a_device_has_what_the_weights_leave():
    from kvfrontier.runners.plan.hardware import hardware
    from kvfrontier.runners.plan.roofline import anatomy

    (case,) = words.read(["model=tiny", "device=l4-24g", "policy=oracle"])
    (plain,) = words.read(["model=tiny", "memory=1GiB", "policy=oracle", "dtype=fp32"])
    config = words.plan_words.composer()(["model=tiny"]).config["model"]
    assert case.memory == hardware("l4-24g").memory - anatomy({**config, "dtype": "bfloat16"}).weights
    assert case.max_length == 8192
    assert plain.bytes_per_token == 2 * case.bytes_per_token == 2 * TOKEN


def test_layers_that_keep_a_window_are_said(allocate):
    (row,) = allocate("model=gemma-3-1b", "memory=1GiB", "policy=paged", "requests=2x50")
    assert "keep a window alone" in row["note"]


def test_the_table_names_the_parts_and_what_was_rejected(capfd):
    assert cli.main(["allocate", *TINY, "policy=oracle,paged", "requests=3x100,2x5000"]) == 0
    out = capfd.readouterr().out
    assert "oracle, buddy" in out and "paged, 16 a block" in out
    assert "tiny, bfloat16, 1.00 MiB: 2,048 tokens; requests: 3 (3x100, at_once, seed 0)" in out
    assert "longer than max_length=2048" in out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["polcy=max"], "did you mean 'policy'"),
        (["policy=buddy"], "there is no policy 'buddy'"),
        (["place=bud"], "did you mean 'buddy'"),
        (["block=0"], "block=0 must be a whole number of at least 1"),
        (["watermark=1"], "less than 1"),
        (["memory=lots"], "memory=lots is no amount"),
        (["memory=100B"], "give more memory"),
        (["device=l4-24g"], "leave one out"),
        (["model=tinny"], "did you mean 'tiny'"),
        (["dtype=bf61"], "there is no dtype 'bf61'"),
    ],
)
def test_what_is_wrong_is_bad_usage_and_said(capfd, asked, message):
    assert cli.main(["allocate", *TINY, "policy=paged", *asked]) == 2
    assert message in capfd.readouterr().err


def test_weights_that_do_not_fit_are_said():
    with pytest.raises(UsageError, match="the weights take"):
        words.read(["model=llama-3-8b", "device=l4-24g", "dtype=fp32"])


# -------------------------------------------------------------------------------------------------- the figure


def test_the_published_shares_come_out_in_order_and_size(capfd):
    """On fewer requests than the figure's own, from all its seeds."""
    assert cli.main(["allocate", "--figure", "vllm-fig2", "count=400", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["verdict"] == "holds"
    assert [row["policy"] for row in found["rows"]] == ["max", "pow2", "oracle", "paged"]
    assert [row["published"] for row in found["rows"]] == [0.204, 0.268, 0.382, 0.963]
    assert found["assumptions"]


def test_the_figures_memory_is_the_papers():
    cases = words.read(published.figure("vllm-fig2").words)
    assert {case.bytes_per_token for case in cases} == {819_200}
    assert {case.capacity for case in cases} == {15_728}


def test_the_figure_is_printed_with_its_verdict_and_assumptions(capfd):
    assert cli.main(["allocate", "--figure", "vllm-fig2", "count=40"]) == 0
    out = capfd.readouterr().out
    assert "Verdict, from 5 seeds" in out and "Changed here: count=40" in out and "12 GiB" in out


def compared(*ours):
    shares = zip("abc", (0.2, 0.4, 0.8), ours, strict=True)
    return [Compared(policy=name, published=share, ours=mine) for name, share, mine in shares]


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (((0.2, 0.22), (0.4, 0.42), (0.8, 0.7)), "holds"),
        (((0.1, 0.1), (0.4, 0.42), (0.8, 0.7)), "holds in direction"),
        # The means are in order, and one seed is not.
        (((0.2, 0.43), (0.4, 0.42), (0.8, 0.7)), "fails"),
    ],
)
def test_the_verdict_is_computed_by_its_rule(ours, expected):
    assert verdict(compared(*ours), 0.25) == expected


def test_a_figure_that_does_not_exist_or_is_made_another_is_bad_usage(capfd):
    assert cli.main(["allocate", "--figure", "vllm-fig3"]) == 2
    assert "did you mean 'vllm-fig2'" in capfd.readouterr().err
    assert cli.main(["allocate", "--figure", "vllm-fig2", "policy=max"]) == 2
    assert "change no policy" in capfd.readouterr().err
