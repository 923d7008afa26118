"""Why two scores may not be put together is said in words, and the report keeps them apart for the same reasons."""

from __future__ import annotations

import pytest

from kvfrontier.analysis.boards import boards
from kvfrontier.runners.record import BadRecords, Score, append
from kvfrontier.runners.review import protocol
from kvfrontier.runners.review.protocol import QUESTIONS, differences, of_record
from kvfrontier.runners.tasks.needle import Needle
from kvfrontier.runners.tasks.perplexity import Perplexity
from kvfrontier.runners.tasks.ruler.niah import NiahSingle1

COLUMN, PAIRS, SIDE = QUESTIONS


def said(a, b):
    return differences(of_record(a, "a"), of_record(b, "b"))


def with_parts(record, **changes):
    """The record with parts replaced, by paths joined with __."""
    for path, value in changes.items():
        *parents, last = path.split("__")
        chain = [record]
        for name in parents:
            chain.append(getattr(chain[-1], name))
        new = chain[-1].model_copy(update={last: value})
        for parent, name in zip(reversed(chain[:-1]), reversed(parents), strict=True):
            new = parent.model_copy(update={name: new})
        record = new
    return record


@pytest.fixture
def needle(record_of):
    return lambda **settings: record_of(Needle(samples=4, **settings), [{"correct": True}] * 4)


def test_the_same_way_of_scoring_may_be_put_together_for_everything(needle):
    assert said(needle(), needle()) == {question: [] for question in QUESTIONS}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"compress_at": "prompt"}, ["task.compress_at: context, prompt"]),
        ({"chat_template": False}, ["task.chat_template: true, false"]),
        ({"haystack": "essays"}, ["task.haystack: noise, essays"]),
    ],
)
def test_a_setting_of_the_hash_parts_columns_and_is_named(needle, settings, why):
    found = said(needle(), needle(**settings))
    assert found[COLUMN] == why
    assert found[PAIRS] == why
    assert found[SIDE] == []


def test_words_of_the_template_and_the_stop_rule_are_named_where_they_differ(needle):
    found = said(needle(), needle(values=2))[COLUMN]
    assert "task.values: 1, 2" in found
    assert any(line.startswith("template.introduction: A special magic number is hidden") for line in found)
    assert 'stop: ["eos", "newline", 12], ["eos", 24]' in found


def test_the_number_of_samples_parts_pairs_and_no_column(record_of):
    few, many = (record_of(Needle(samples=n), [{"correct": True}] * n) for n in (4, 9))
    found = said(few, many)
    assert found[COLUMN] == []
    assert found[PAIRS] == ["sample set n: 4, 9"]


@pytest.mark.parametrize(
    ("changes", "question", "why"),
    [
        ({"cell__context": 2048}, PAIRS, "context: 1024, 2048"),
        ({"quality__sample_set": "n=4 seed=1 tokenizer=t data=d"}, PAIRS, "sample set seed: 0, 1"),
        ({"quality__sample_set": "n=4 seed=0 tokenizer=u data=d"}, PAIRS, "sample set tokenizer: t, u"),
        ({"quality__sample_set": "n=4 seed=0 tokenizer=t data=e"}, PAIRS, "sample set data: d, e"),
        ({"environment__device_name": "a GPU"}, SIDE, "device: a CPU, a GPU"),
        ({"environment__torch": "2.14.0"}, SIDE, "torch: 2.13.0, 2.14.0"),
        ({"cell__protocol": {"chunk": 64}}, SIDE, "protocol.chunk: 512, 64"),
    ],
)
def test_samples_contexts_and_machines_are_told_apart(needle, changes, question, why):
    found = said(needle(), with_parts(needle(), **changes))
    assert {q for q, lines in found.items() if lines} == {question}
    assert found[question] == [why]


def test_tasks_and_versions_are_told_apart_and_unknown_rules_are_not_made_up(needle, record_of):
    other = record_of(NiahSingle1(samples=4), [{"recall": 1.0}] * 4)
    assert said(needle(), other)[COLUMN] == ["task: needle, niah_single_1"]
    old = with_parts(
        needle(), cell__task={**needle().cell.task, "version": 0}, quality__task_version=0, quality__task_hash="0" * 16
    )
    assert of_record(old, "old").rules is None
    assert said(needle(), old)[COLUMN] == ["version: 1, 0"]
    changed = with_parts(needle(), quality__task_hash="f" * 16)
    assert said(needle(), changed)[COLUMN][0].startswith("task hash: ")


@pytest.mark.parametrize("score", [Needle, NiahSingle1, Perplexity])
def test_a_score_moved_between_versions_is_refused_here_and_in_the_report(record_of, score):
    good = record_of(score(), [{"correct": True, "recall": 1.0, "agreement": 1.0}], method="dense")
    moved = with_parts(good, id="moved", quality__task_version=score.version + 1)
    assert said(good, moved)[COLUMN][0] == "b: answers of one version of the task, scored by another"
    (board,) = boards([good, moved])
    assert [r.id for r in board.records] == [good.id]
    assert board.notes == ("1 record with scores of another version of the task than the answers left out",)
    with pytest.raises(BadRecords, match="run them again"):
        boards([moved])


def test_scores_of_two_versions_have_a_column_each(record_of):
    new = record_of(Needle(), [{"correct": True}], scores={"accuracy": Score(value=1.0, n=1)})
    old = with_parts(
        new, id="old", cell__task={**new.cell.task, "version": 0}, quality__task_version=0, quality__task_hash="0" * 16
    )
    (board,) = boards([new, old])
    assert {(c.title, c.task_hash) for c in board.columns} == {
        ("needle (version=0)", "0" * 16),
        ("needle (version=1)", Needle().hash()),
    }


def test_each_side_is_compared_with_what_it_is_nearest_to(needle, record_of):
    a, b = needle(), needle(compress_at="prompt")
    c = record_of(Perplexity(), [{"agreement": 1.0}])
    ours, theirs = ([of_record(r, "") for r in side] for side in ([a, c], [a, b]))
    assert [(x.task_hash, y.task_hash) for x, y in protocol.pairs(ours, theirs)] == [(a.quality.task_hash,) * 2]
    # Nothing in common: all that there is.
    assert len(list(protocol.pairs(ours[1:], theirs))) == 2


def test_the_command_takes_files_and_words(needle, kvfrontier, tmp_path):
    append(tmp_path / "a.jsonl", needle())
    words = "task=needle task.samples=4 task.compress_at=prompt context=1024 model=tiny"
    (row,) = kvfrontier("protocol", "diff", str(tmp_path / "a.jsonl"), words, "--json").json
    assert row[COLUMN] == ["task.compress_at: context, prompt"]
    text = kvfrontier("protocol", "diff", str(tmp_path), words).out
    assert "one column: no\n    task.compress_at: context, prompt" in text
    # Words say nothing of a machine.
    assert row["unknown"][COLUMN] == row["unknown"][PAIRS] == []
    assert {"device", "threads", "torch"} <= set(row["unknown"][SIDE])
    text = kvfrontier("protocol", "diff", words, words).out
    assert f"{COLUMN}: yes\n  {PAIRS}: yes\n  {SIDE}: not known\n    one side does not say: revision, device" in text
    (shown,) = kvfrontier("protocol", "show", *words.split(), "--json").json
    assert shown["task_hash"] == Needle(compress_at="prompt").hash()
    assert shown["rules"] == Needle(compress_at="prompt").rules()
    assert set(shown["samples"]) == {"n", "seed", "tokenizer", "data"}
    assert Needle().hash() in kvfrontier("protocol", "show", str(tmp_path)).out


def test_records_know_everything_of_each_other(needle):
    a, b = of_record(needle(), "a"), of_record(needle(), "b")
    assert protocol.unknown(a, b) == {question: [] for question in QUESTIONS}


def test_sides_that_cannot_be_read_are_bad_usage(kvfrontier, tmp_path):
    for args, why in (
        (("diff", "task=needle"), "compares two sides, and got 1"),
        (("show", str(tmp_path / "no.jsonl")), "there are no records"),
        (("show", str(tmp_path)), "no record in"),
        (("show", "task=neddle"), "did you mean 'needle'"),
    ):
        said = kvfrontier("protocol", *args)
        assert said.code == 2
        assert why in said.err
