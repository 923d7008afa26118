import subprocess
import sys

import pytest

import kvfrontier


def test_keywords_and_words_ask_what_the_command_asks(plan):
    asked = ("model=tiny", "method=dense,window", "context=200", "chunk=64", "device=l4-24g", "method.window=40")
    told = plan(*asked[:1], "method=window", *asked[2:])
    rows = kvfrontier.plan("method.window=40", model="tiny", method=["window"], context=200, chunk=64, device="l4-24g")
    assert rows == told
    many = kvfrontier.plan(model="tiny", method=["dense", "linear"], context=(200, 300), chunk=None, device="l4-24g")
    assert [(row["method"], row["context"], row["chunk"]) for row in many] == [
        ("dense", 200, None), ("dense", 300, None), ("linear", 200, None), ("linear", 300, None),
    ]  # fmt: skip


def test_it_says_why_and_what_cannot_be_served():
    dense, mla = kvfrontier.plan(model="tiny", method=["dense", "mla"], context=200, why=True)
    assert dense["why"]["dominant"] in dense["why"]["terms"]
    assert mla["fits"] is None
    assert "no latents" in mla["note"]
    with pytest.raises(ValueError, match="did you mean"):
        kvfrontier.plan(model="tinny", context=200)


def test_a_workload_is_planned_as_its_longest_request_in_every_row_and_says_so():
    ragged, alone = kvfrontier.plan("model=tiny", "workload=code_completion,agent", method="window", chunk=512)
    assert (ragged["batch"], ragged["context"]) == (8, 2056)
    # Eight prompts of 2,048, 1,024, 512, 512 and four of 128 tokens, and 8 decoded for each.
    assert "as 8 rows of its longest request, 16,448 tokens; its own are 4,672" in ragged["note"]
    assert "rows of its longest" not in alone["note"]


def test_its_name_loads_nothing_until_it_is_asked_for():
    code = "import sys, kvfrontier; assert 'torch' not in sys.modules; kvfrontier.plan; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
