"""A trace: its steps are those of the run, its peaks those of the meter, and its files say the same."""

import csv
import json

import pytest

from kvfrontier.methods import registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import cli, meter, trace
from kvfrontier.runners.session import Session

WORDS = ["model=tiny", "context=150", "chunk=64", "new=6", "dtype=float32", "device=cpu"]


@pytest.fixture(scope="module")
def traced():
    cell, model = trace.read([*WORDS, "method=snapkv", "method.budget=40", "method.window=8"])
    return trace.measure(cell, model), cell, model


def test_a_step_is_a_chunk_the_seal_or_a_token(traced):
    found, *_ = traced
    assert [(step.phase, step.tokens) for step in found.steps] == [
        ("prefill", 64), ("prefill", 128), ("prefill", 144), ("seal", 144), *(("decode", n) for n in range(145, 151)),
    ]  # fmt: skip


def test_its_highest_steps_are_the_meters_peaks(traced):
    _, cell, model = traced
    loaded = cells.load(cell, model)
    ids = cells.random_ids(cell, loaded)
    with Session(loaded.model, registry.build(cell.method)) as before:
        before.prefill(ids[:, :2])
        block = meter.measure_memory(
            lambda: Session(loaded.model, registry.build(cell.method)),
            ids[:, :144],
            ids[:, 144:],
            chunk=64,
            weights=loaded.model,
        )
        again = trace.measure(cell, model)
    highest = {phase: max(again.bytes(s.peak) for s in again.steps if s.phase in phase)
               for phase in (("prefill", "seal"), ("decode",))}  # fmt: skip
    assert highest == {("prefill", "seal"): block.prefill_peak, ("decode",): block.decode_peak}
    assert again.bytes(again.steps[-1].rest) == block.resident


def test_what_is_at_rest_is_what_the_state_holds(traced):
    found, cell, model = traced
    config = cells.load(cell, model).model.config
    token = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    by_phase = {step.phase: step.rest.state for step in found.steps}
    assert found.steps[1].rest.state - found.steps[0].rest.state == 64 * token
    assert by_phase["seal"] == 40 * token, "what the seal dropped is gone, and so are the queries kept for it"
    assert by_phase["decode"] == 46 * token


def test_the_command_writes_data_and_pictures(tmp_path, capfd):
    assert cli.main(["trace", *WORDS, "method=window", "method.window=32", "-o", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "at rest" in said
    assert "peak " in said
    data = json.loads((tmp_path / "trace.json").read_text())
    lines = list(csv.DictReader((tmp_path / "trace.csv").read_text().splitlines()))
    assert len(lines) == len(data["steps"]) == 10
    assert [int(line["peak_activations"]) for line in lines] == [s["peak"]["activations"] for s in data["steps"]]
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "trace.svg").read_bytes()


def test_json_alone_is_printed_where_asked(capfd):
    assert cli.main(["trace", *WORDS, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["label"] == "dense"


@pytest.mark.parametrize(("word", "says"), [("window", "is not KEY=VALUE"), ("method=windw", "did you mean 'window'")])
def test_words_that_ask_for_nothing_say_so(word, says, capfd):
    assert cli.main(["trace", word]) == 2
    assert says in capfd.readouterr().err
