"""The commands that the report prints run the cells of its records, and no others."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report.repeat import commands, literal
from kvfrontier.runners import cell as cells
from kvfrontier.runners import compose
from kvfrontier.runners.record import Cell, Record, canonical_json, load_records

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def composer() -> compose.Composer:
    compose.register()
    return compose.Composer()


def run_by(lines: Sequence[str], composer: compose.Composer) -> list[str]:
    """The cells that command lines run: the context is the one axis that they sweep."""
    found = []
    for line in lines:
        *words, contexts = shlex.split(line)
        assert words[:3] == ["kvfrontier", "run", "-m"]
        assert not any(o.is_sweep_override() for o in compose.parse(words[3:]))
        for context in contexts.removeprefix("context=").split(","):
            cell = cells.describe(composer([*words[3:], f"context={context}"]).config)
            found.append(canonical_json(cell.model_dump()))
    return sorted(found)


def cells_of(records: Sequence[Record]) -> list[str]:
    return sorted({canonical_json(r.cell.model_dump()) for r in records})


def record_of(build, composer: compose.Composer, *overrides: str) -> Record:
    """A record of the cell that overrides compose to."""
    config = composer(overrides).config
    cell: Cell = cells.describe(config)
    return build(cell=cell.model_dump(), config=config, info__label=cells.method_label(cell))


def test_the_commands_of_the_published_records_run_their_cells(composer):
    """Of every method and of every way of asking, all contexts; not every pair of both."""
    records = load_records(RESULTS)
    asked = {canonical_json([r.cell.model, r.cell.task]): r.cell for r in records}
    methods = {canonical_json([r.cell.model, r.cell.asked]): r.cell for r in records}
    shapes = [(c.asked, c.task) for c in (*asked.values(), *methods.values())]
    few = [r for r in records if (r.cell.asked, r.cell.task) in shapes]
    assert len(few) > len(methods)
    for board in boards(few):
        assert run_by(commands(board), composer) == cells_of(board.records)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=gqa", "meter.decode_tokens=4", "meter.repetitions=1", "protocol.chunk=null", "seed=3", "batch=2"],
        ["method=snapkv", "method.window=16", "task=needle", "task.compress_at=prompt", "task.samples=3"],
        ["method=sinks_original", "dtype=bfloat16"],
        ["method=h2o", "budget=25%"],
        ["method=kivi2", "budget=64MiB"],
        ["method=linear", "budget=25%"],
        ["method=sinks", "method.sinks=4", "budget=1"],
        ["method=cached", "method/selection=snapkv", "method/store=kivi4", "method/memory=moving_average"],
        ["method=cached", "method/selection=h2o", "budget=300"],
        ["method=window", "method.layers={0-1: dense, /4: kivi4}"],
        ["method=rag", "task=perplexity", "task.texts=[hamlet]"],
        ["model=tiny", "model.layers=3", "method=window", "method.window=64"],
        ["model=hf", "model.path='/models/a b, c=d'", "model.revision=main"],
    ],
    ids=" ".join,
)
def test_the_command_of_a_cell_composes_to_it(make, composer, overrides):
    record = record_of(make, composer, "context=1024", *overrides)
    (board,) = boards([record])
    assert run_by(commands(board), composer) == cells_of([record])


def test_contexts_of_one_method_and_task_share_a_command(make, composer):
    records = [record_of(make, composer, "method=snapkv", f"context={c}", "budget=25%") for c in (512, 1024, 2048)]
    (board,) = boards(records)
    (line,) = commands(board)
    assert line.endswith("context=512,1024,2048")


@pytest.mark.parametrize("text", ["null", "True", "1e5", "", "a,b", "it's", "\\", "a\\'", "${x}", "a b", "é"])
def test_a_text_is_read_back_as_itself(text):
    (override,) = compose.parse([f"key={literal(text)}"])
    assert override.value() == text
