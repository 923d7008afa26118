"""What is drawn is what its description says, by a reader of its own."""

from importlib.resources import files
from typing import Any

import pytest
import torch
import yaml

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.train import tasks
from kvfrontier.runners.train.tasks import IGNORED

SHAPES = {
    "mqar": [{"length": 64, "pairs": 16}, {"length": 32, "pairs": 3}],
    "copying": [{"length": 33}, {"length": 32}],
    "induction": [{"length": 32}],
    "selective_copying": [{"length": 32, "copied": 5}],
    "noisy_recall": [{"length": 40, "pairs": 6}],
    "passkey": [{"length": 40}],
    "listops": [{"length": 48}],
    "text": [{"length": 200}],
}
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


def drawn(name, shape, seed=0, n=40, **parameters):
    task: Any = tasks.make({"name": name, **parameters})
    return task, task.draw(shape, n, torch.Generator().manual_seed(seed), "test")


def questions(ids, labels):
    """(place, what stands before and there, the label) of every question of a text."""
    return [(t, ids[: t + 1], label) for t, label in enumerate(labels) if label != IGNORED]


def answer_mqar(task, before):
    key, half = before[-1], task.vocabulary // 2
    return next(v for k, v in zip(before[::2], before[1::2], strict=False) if k == key and v >= half)


def answer_copying(task, before):
    mark = max(i for i, x in enumerate(before) if x == 0)
    source = before[1:mark] if before[0] == 0 and mark else before[:mark]
    return source[len(before) - 1 - mark]


def answer_induction(task, before):
    return before[before.index(0) + 1]


def answer_selective_copying(task, before):
    return [x for x in before if x > 1][before.count(1) - 1]


def answer_noisy_recall(task, before):
    return before[before.index(before[-1]) + 1]


def answer_passkey(task, before):
    told, asked = before.index(10), before.index(11)
    return before[told + 1 + len(before) - 1 - asked]


def answer_listops(task, before):
    operators = {13: max, 14: min, 15: lambda x: (sorted(x)[(len(x) - 1) // 2] + sorted(x)[len(x) // 2]) // 2,
                 16: lambda x: sum(x) % 10}  # fmt: skip
    stack = [[]]
    for token in before[:-1]:
        if token >= 13:
            stack.append([token])
        elif token == 12:
            operator, *digits = stack.pop()
            stack[-1].append(operators[operator](digits))
        elif token < 10:
            stack[-1].append(token)
    return stack[0][0]


@pytest.mark.parametrize(("name", "shape"), [c for c in CASES if c[0] != "text"], ids=str)
def test_every_label_follows_from_what_stands_before_it(name, shape):
    task, batch = drawn(name, shape)
    assert batch.ids.shape == batch.labels.shape == (40, shape["length"])
    assert 0 <= batch.ids.min() <= batch.ids.max() < task.tokens
    for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
        asked = questions(ids, labels)
        assert asked
        assert min(t for t, _, _ in asked) >= batch.prompt - 1
        assert labels[-1] == IGNORED
        assert all(globals()[f"answer_{name}"](task, before) == label for _, before, label in asked)


def test_text_is_the_corpus_and_its_parts_do_not_overlap():
    from kvfrontier.runners.texts import load_text

    corpus = load_text("python-docs").content.encode()
    task = tasks.make({"name": "text"})
    parts = {"train": (0, 0.9), "valid": (0.9, 0.95), "test": (0.95, 1)}
    for split, (first, last) in parts.items():
        batch = task.draw({"length": 200}, 20, torch.Generator().manual_seed(1), split)
        assert torch.equal(batch.labels[:, :-1], batch.ids[:, 1:])
        part = corpus[int(first * len(corpus)) : int(last * len(corpus))]
        assert all(bytes(ids) in part for ids in batch.ids.tolist())


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_a_seed_gives_the_same_texts_and_another_does_not(name, shape):
    first, same, other = (drawn(name, shape, seed)[1].ids for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_mqar_asks_each_key_once_and_its_gaps_fall_off_as_a_power():
    """Against drawing one gap after the other without replacement, as the paper's generator does."""
    task, batch = drawn("mqar", {"length": 64, "pairs": 4}, n=4000, vocabulary=64)
    keys, at = batch.ids[:, 0:8:2], (batch.labels != IGNORED).nonzero()[:, 1].view(4000, 4)
    assert (keys.sort(1).values.diff(dim=1) > 0).all()
    assert torch.equal(batch.ids.gather(1, at).sort(1).values, keys.sort(1).values)
    assert (keys >= 1).all() and (keys < 32).all() and (batch.ids[:, 1:8:2] >= 32).all()
    gaps = (at - 8) // 2
    assert not ((at - 8) % 2).any()
    p = torch.arange(1, 29, dtype=torch.float64) ** (task.power - 1)
    one_by_one = torch.multinomial(p.expand(20_000, -1), 4, generator=torch.Generator().manual_seed(0))
    expected = torch.bincount(one_by_one.flatten(), minlength=28) / 20_000
    found = torch.bincount(gaps.flatten(), minlength=28) / 4000
    assert (found - expected).abs().max() < 0.03


def test_the_distance_of_a_question_counts_from_its_value():
    _, batch = drawn("mqar", {"length": 32, "pairs": 4})
    for ids, labels, distances in zip(batch.ids, batch.labels, batch.kinds["distance"], strict=True):
        for t, _, label in questions(ids.tolist(), labels.tolist()):
            assert ids[t - distances[t]] == label


def test_longer_texts_are_the_hardest_trained_shape_at_other_lengths():
    short, long = {"length": 32, "pairs": 2, "examples": 8}, {"length": 64, "pairs": 8, "examples": 8}
    task = tasks.make({"name": "mqar", "train": [short, long], "lengths": [2, 4, 16]})
    assert task.exams[-3:] == [{"length": n, "pairs": 8} for n in (128, 256, 1024)]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"name": "mqr"}, "did you mean 'mqar'"),
        ({"name": "mqar", "vocab": 7}, "vocabulary"),
        ({"name": "mqar", "test": [{"length": 64}]}, "pairs"),
        ({"name": "mqar", "test": [{"length": 64, "pairs": 17}]}, "four times the pairs"),
        ({"name": "mqar", "vocabulary": 8}, "too few keys"),
        ({"name": "copying", "train": []}, "at least one shape"),
        ({"name": "text", "near": 200}, "no far past"),
    ],
)
def test_what_makes_no_task_says_what_to_change(config, match):
    with pytest.raises(UsageError, match=match):
        tasks.make(config)


def test_every_task_has_a_configuration_that_makes_it():
    folder = files("kvfrontier.configs.train").joinpath("task")
    written = {file.name: yaml.safe_load(file.read_text()) for file in folder.iterdir() if file.name.endswith(".yaml")}
    assert {f"{name}.yaml" for name in tasks.tasks()} == set(written)
    assert all(f"{tasks.make(config).name}.yaml" == name for name, config in written.items())
