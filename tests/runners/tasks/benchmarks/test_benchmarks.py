"""Benchmarks on small made files with the fields of the real ones: prompts, truncation, answers, refusals."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import pytest

from kvfrontier.methods import Dense
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import make
from kvfrontier.runners.tasks.benchmarks import metrics, source

BENCHMARKS = ("longbench", "longbench_v2", "infinitebench", "helmet_recall", "nolima")


def benchmark(config: dict[str, Any]) -> Any:
    return make(config)


def task(name: str, folder: Any, **settings: Any) -> Any:
    return benchmark({"name": name, "path": str(folder), "samples": 4, **settings})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_data_set_names_a_metric_that_there_is_and_a_prompt_with_the_text(name):
    about = source.described(name)
    for dataset in about["datasets"]:
        spec = benchmark({"name": name, "dataset": dataset}).spec
        assert spec["metric"] in metrics.METRICS
        assert spec["new_tokens"] > 0
        assert spec["file"]
        assert name == "nolima" or spec["prompt"].count("{context}") == 1
    if "hub" in about:
        assert len(about["hub"]["revision"]) == 40


@pytest.mark.parametrize(
    ("name", "dataset", "row", "expected"),
    [
        ("longbench", "qasper", {"context": "A {text}.", "input": "Why {so}?"}, "Article: A {text}.\n\n Answer the"),
        ("longbench_v2", "all", {"context": "T", "question": "Q", **{f"choice_{c}": c for c in "ABCD"}}, "(D) D\n\n"),
        ("infinitebench", "code_run", {"context": "C", "func": "func_1", "func_call": "func_1(-3)"}, "of func_1(-3)."),
    ],
)  # fmt: skip
def test_a_prompt_holds_a_row_s_values_with_their_braces(name, dataset, row, expected):
    from kvfrontier.runners.tasks.benchmarks.task import _filled

    assert expected in _filled(benchmark({"name": name, "dataset": dataset}).spec["prompt"], row)


@pytest.mark.parametrize("chat_template", [True, False])
def test_a_prompt_that_fits_is_the_template_around_the_whole_text(bytes_tokenizer, benchmark_data, chat_template):
    longbench = task("longbench", benchmark_data, chat_template=chat_template)
    sample = longbench.drawn(bytes_tokenizer, 6000, 0, 0)
    row = json.loads((benchmark_data / "qasper.jsonl").read_text().splitlines()[sample.facts["row"]])
    text = longbench.spec["prompt"].format(**row)
    said = bytes_tokenizer.decode(sample.ids)
    assert (text in said) and (said.strip() != text.strip()) == chat_template
    assert bytes_tokenizer.decode(sample.context).endswith(row["context"])
    assert sample.targets == tuple(row["answers"])
    assert sample.facts["cut_tokens"] == 0


def test_a_longer_prompt_loses_its_middle_and_fills_the_context(bytes_tokenizer, benchmark_data):
    longbench = task("longbench", benchmark_data, chat_template=False)
    whole, short = (longbench.drawn(bytes_tokenizer, context, 0, 1) for context in (6000, 1400))
    room = 1400 - longbench.answer_tokens
    assert len(short.ids) == room
    assert short.facts["cut_tokens"] == len(whole.ids) - room > 0
    assert short.ids == whole.ids[: room // 2] + whole.ids[-(room - room // 2) :]


def test_no_template_stands_where_the_official_code_sets_none(bytes_tokenizer, benchmark_data):
    for name, dataset in (("longbench", "trec"), ("infinitebench", "passkey"), ("helmet_recall", "json_kv")):
        sample = task(name, benchmark_data, dataset=dataset).drawn(bytes_tokenizer, 6000, 0, 0)
        assert "<turn>" not in bytes_tokenizer.decode(sample.ids)


def test_infinitebench_answers_are_what_its_metrics_take(bytes_tokenizer, benchmark_data):
    def drawn(dataset: str) -> Any:
        made = task("infinitebench", benchmark_data, dataset=dataset)
        return made, made.drawn(bytes_tokenizer, 60_000, 0, 0)

    made, choice = drawn("longbook_choice_eng")
    assert choice.targets == (["blue", "C"],)
    assert made.judge("C", choice.targets, choice.facts) == {"score": 1.0}
    _, run = drawn("code_run")
    assert f"The value of func_{run.targets[0]}(-{run.targets[0]}) is" in bytes_tokenizer.decode(run.question)
    _, find = drawn("math_find")
    assert "What is the largest number in the following list?" in bytes_tokenizer.decode(find.context)
    _, calc = drawn("math_calc")
    assert calc.targets == ([1, 3, -1],)


def test_helmet_shows_two_solved_examples_and_scores_the_share_of_several_values(bytes_tokenizer, benchmark_data):
    sample = task("helmet_recall", benchmark_data).drawn(bytes_tokenizer, 4000, 0, 0)
    key, value = sample.targets[0].replace("v", "k"), sample.targets[0]
    assert bytes_tokenizer.decode(sample.question).endswith(
        f"Key: k7\nCorresponding value: v7\n\nKey: k8\nCorresponding value: v8\n\nKey: {key}\nCorresponding value:"
    )
    assert value.startswith("v")
    several = task("helmet_recall", benchmark_data, dataset="niah_multivalue")
    assert several.judge(" 12 and 56", ("12", "34"), {}) == {"score": 0.5}


def test_a_needle_of_nolima_stands_at_its_depth_in_the_book_and_its_character_is_the_answer(
    bytes_tokenizer, benchmark_data
):
    nolima = task("nolima", benchmark_data, samples=5)
    for i, sample in enumerate(nolima.draw(bytes_tokenizer, 3000, 0)):
        text = bytes_tokenizer.decode(sample.context)
        (character,) = sample.targets
        assert text.count(f"\nIn truth, {character} lives beside the ") == 1
        before = text.index("In truth")
        assert before / len(text) == pytest.approx(i / 4, abs=0.1)
        place = "Dresden" if "the opera" in text else "Paris"
        region = {"Dresden": "Saxony", "Paris": "France"}[place]
        assert (
            bytes_tokenizer.decode(sample.question)
            .split("Question: ")[1]
            .startswith((f"Who has been in {place}?", f"Who has been in {region}?"))
        )
        assert 3000 - nolima.answer_tokens - 400 < len(sample.ids) <= 3000 - nolima.answer_tokens


@pytest.mark.parametrize(
    ("name", "settings"),
    [("longbench", {"dataset": "trec"}), ("longbench_v2", {"dataset": "short"}), ("nolima", {})],
)
def test_a_benchmark_runs_and_its_answers_are_scored_again_from_the_record(tiny, benchmark_data, name, settings):
    made = task(name, benchmark_data, **settings)
    open_session = lambda: Session(tiny.model, Dense())  # noqa: E731
    quality = made.run(open_session, open_session, tiny, 1500, 0, chunk=512)
    assert len(quality.samples) == quality.scores["score"].n == 4
    assert quality.chance == made.chance
    assert [made.graded(sample) for sample in quality.samples] == list(quality.samples)
    assert quality.task_hash == made.hash() == benchmark({**made.parameters(), "path": "/elsewhere"}).hash()


def test_rows_come_from_the_hub_at_the_pinned_commit_out_of_its_archive(monkeypatch, tmp_path):
    asked: list[Any] = []

    def download(repository: str, file: str, **options: Any) -> str:
        asked.append((repository, file, options))
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            archive.writestr("data/qasper.jsonl", json.dumps({"_id": "1"}))
        return str(tmp_path / "data.zip")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    source.rows.cache_clear()
    assert list(benchmark({"name": "longbench"}).rows().rows) == [{"_id": "1"}]
    pinned = source.described("longbench")["hub"]["revision"]
    assert asked == [("THUDM/LongBench", "data.zip", {"repo_type": "dataset", "revision": pinned})]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("longbench", {"dataset": "qaspr"}, "did you mean 'qasper'"),
        ("longbench", {"dataset": "hotpotqa"}, "there is no hotpotqa.jsonl in this folder"),
        ("longbench", {"samples": 7}, "has 6 rows"),
        ("helmet_recall", {"path": None}, "task.path=DIR"),
        ("nolima", {"depth": 1.5}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_asked_is_said(tiny, benchmark_data, name, settings, message):
    with pytest.raises(UsageError, match=message):
        task(name, benchmark_data, **settings).check(tiny, 4000)


@pytest.mark.parametrize("field", ["context", "input", "answers", "_id"])
def test_a_row_without_a_field_is_named_with_its_file(tiny, tmp_path, field):
    rows: list[dict[str, Any]] = [
        {"context": "A text.", "input": "What?", "answers": ["yes"], "_id": str(i)} for i in range(2)
    ]
    del rows[1][field]
    (tmp_path / "qasper.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=rf"task.path=\S*: qasper.jsonl, row 2, has no field '{field}'"):
        task("longbench", tmp_path, samples=2).check(tiny, 4000)


def test_a_file_that_holds_no_rows_is_said(tmp_path):
    (tmp_path / "qasper.jsonl").write_text('"a text"\n')
    with pytest.raises(UsageError, match="no list of JSON objects"):
        task("longbench", tmp_path).rows()


@pytest.mark.parametrize(
    ("name", "dataset", "chance"),
    [
        ("longbench", "qasper", 0.0),
        ("longbench_v2", "short", 1 / 4),
        ("infinitebench", "passkey", 0.0),
        ("infinitebench", "longbook_choice_eng", 1 / 4),
        ("infinitebench", "code_debug", 1 / 4),
        ("helmet_recall", "json_kv", 0.0),
        ("nolima", "needle_set", 0.0),
    ],
)
def test_a_guess_scores_nothing_but_where_there_are_choices(name, dataset, chance):
    assert benchmark({"name": name, "dataset": dataset}).chance == chance


def test_an_unreachable_hub_is_said_with_what_to_do(monkeypatch):
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no route to the hub\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    source.rows.cache_clear()
    with pytest.raises(UsageError, match=r"data.json of THUDM/LongBench-v2 .* \(no route to the hub\); download it"):
        benchmark({"name": "longbench_v2"}).rows()
