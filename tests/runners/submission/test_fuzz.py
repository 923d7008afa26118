"""Whatever is handed in, nothing in it is run, and nothing of it ends in a traceback."""

from __future__ import annotations

import ast
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvfrontier.analysis.reproduce.comparison import read
from kvfrontier.runners.publish.card import card
from kvfrontier.runners.record import BadRecords, Record, iter_records
from kvfrontier.runners.submission.invariants import problems
from kvfrontier.runners.submission.reading import lines

ROOT = Path(__file__).parents[3]
FUZZ = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, part in inner for path in paths(part, (*here, key)))]


def written(content: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path = folder / "fuzz.jsonl"
    path.write_bytes(content)
    return path


@FUZZ
@given(content=st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_record_or_a_problem(content: bytes) -> None:
    for line in lines(written(content)):
        assert (line.record is None) == bool(line.problem)


@FUZZ
@given(data=st.data())
def test_any_change_of_a_record_is_read_and_judged(line: str, data: st.DataObject) -> None:
    record = json.loads(line)
    where = data.draw(st.sampled_from([p for p in paths(record) if p]))
    target = record
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = data.draw(values)
    content = json.dumps(record).encode() + b"\n"
    for found in lines(written(content)):
        assert found.problem or all(isinstance(p, str) for p in problems(found.record or Record.model_validate({})))


@FUZZ
@given(content=st.binary(max_size=200).map(lambda b: b + b"\n"))
def test_reading_records_raises_nothing_else_than_bad_records(content: bytes) -> None:
    with suppress(BadRecords):
        list(iter_records(written(content)))


@FUZZ
@given(text=st.text(max_size=200) | values.map(json.dumps))
def test_any_yaml_is_a_comparison_or_is_refused(text: str) -> None:
    with suppress(BadRecords):
        assert read(text, "fuzz").name == "fuzz"


@FUZZ
@given(name=st.text(alphabet="<>&|\"'ab", max_size=12))
def test_no_markup_of_a_record_reaches_a_card(line: str, name: str) -> None:
    record = Record.model_validate_json(line)
    record = record.model_copy(update={"cell": record.cell.model_copy(update={"model": name})})
    told = card("Results", [record], 1, "").split("---\n", 2)[2].split("| File")[0]
    assert "<" not in told and ">" not in told


#: Modules that run what they read, and calls that do. To name what an unpickler of torch's raises is none of it.
UNSAFE = {"cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
CALLS = {
    "eval",
    "exec",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
}


@pytest.mark.parametrize("folder", ["analysis", "methods", "runners", "kvfrontier"])
def test_nothing_that_is_read_is_run(folder: str) -> None:
    """No pickle; YAML by its safe loader alone; weights as tensors alone; no eval."""
    wrong = [
        f"{file.relative_to(ROOT)}: {ast.unparse(node)[:80]}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if unsafe(node)
    ]
    assert not wrong, "\n".join(wrong)


def unsafe(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in UNSAFE for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in {*UNSAFE, "pickle"}
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        tensors_only = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        return called in CALLS or (called == "torch.load" and not tensors_only)
    return False
