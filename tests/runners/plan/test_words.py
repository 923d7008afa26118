import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import words


def test_commas_make_a_product_in_the_order_of_the_words():
    cells = words.read(["model=tiny", "method=dense,window", "context=256,512"])
    assert [(c.cell.method["name"], c.cell.context) for c in cells] == [
        ("dense", 256), ("dense", 512), ("window", 256), ("window", 512),
    ]  # fmt: skip


def test_requests_say_batch_and_context():
    many, one = words.read(["model=tiny", "requests=32x500,1x16000"])
    assert (many.cell.batch, many.cell.context) == (32, 500)
    assert (one.cell.batch, one.cell.context) == (1, 16_000)


def test_parameters_and_budgets_are_those_of_run():
    (cell,) = words.read(["model=tiny", "method=window", "budget=25%", "context=401"])
    assert cell.cell.method["window"] == 100
    (cell,) = words.read(["model=tiny", "method=window", "method.window=77", "dtype=bf16"])
    assert (cell.cell.method["window"], cell.cell.dtype) == (77, "bfloat16")


def test_a_comma_within_brackets_parts_nothing():
    (cell,) = words.read(["model=tiny", "method=window", "method.layers={0: dense, 1: dense}"])
    assert set(cell.cell.method["layers"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["model"], "'model' is not KEY=VALUE"),
        (["model=tinny"], "did you mean 'tiny'"),
        (["model=tiny", "device=h100"], "did you mean"),
        (["model=tiny", "requests=32"], "write 32x500"),
        (["model=tiny", "requests=2x20", "batch=3"], "leave these out"),
        (["model=tiny", "logits=some"], "choose one of all, last"),
        (["model=tiny", "method=window", "method.windw=3"], "did you mean 'method.window'"),
        (["model=tiny", "context=8", "new=8"], "leaves nothing of context 8"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(asked, message):
    with pytest.raises(UsageError, match=message):
        words.read(asked)
