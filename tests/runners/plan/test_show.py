from kvfrontier.runners import cli

TINY = ("model=tiny", "context=200", "chunk=64", "device=l4-24g")


def test_json_rows_carry_sizes_fits_and_bounds(plan):
    dense, window = plan(*TINY, "method=dense,window")
    assert {"state_bytes", "prefill_peak_bytes", "decode_peak_bytes", "fits", "max_context", "max_batch"} <= set(dense)
    assert dense["fits"] and window["fits"]
    assert dense["ttft_bound"] in ("memory", "compute")
    assert dense["peaks_exact"]
    assert dense["state_bytes"] == 200 * 2 * 2 * 2 * 32 * 2


def test_the_table_names_the_bound(capfd):
    assert cli.main(["plan", *TINY]) == 0
    out = capfd.readouterr().out
    assert "tiny, bfloat16, on l4-24g" in out
    assert "(memory)" in out


def test_a_method_that_cannot_serve_the_model_has_a_row_that_says_why(plan):
    dense, mla = plan(*TINY, "method=dense,mla")
    assert dense["fits"]
    assert mla["fits"] is None
    assert "no latents" in mla["note"]


def test_nothing_that_can_be_planned_is_bad_usage(capfd):
    assert cli.main(["plan", *TINY, "method=mla"]) == 2
    assert "no latents" in capfd.readouterr().err


def test_a_budget_that_nothing_meets_says_so(plan):
    rows = plan(*TINY, "method=dense,sinks", "budget=1")
    assert "nothing of this method is as small" in rows[1]["note"]
