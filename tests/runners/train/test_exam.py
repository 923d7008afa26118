"""What a record of the trained track says is what an independent reading of the model gives."""

import math
from typing import Any

import pytest
import torch

from kvfrontier.runners.train.exam import Exam, octaves, score
from kvfrontier.runners.train.session import TrainedSession
from kvfrontier.runners.train.tasks import IGNORED
from kvfrontier.runners.train.tasks.task import seeded

SHAPE = {"length": 32, "pairs": 4}


def exam(one) -> Any:
    return Exam(one.model, one.method, one.parts, one.task, seed=0)


@pytest.mark.parametrize("method", [{"name": "dense"}, {"name": "window", "window": 8}, {"name": "rmt", "memory": 2,
                                    "segment": 8}, {"name": "gla"}], ids=lambda m: m["name"])  # fmt: skip
def test_accuracy_is_that_of_one_forward_over_the_whole_text(trainer, method):
    one = trainer(method, batch=32, steps=8, every=8)
    one.run()
    quality = exam(one).quality(SHAPE)
    batch = one.task.draw(SHAPE, 16, seeded(0, "test", SHAPE), "test")
    with TrainedSession(one.model, one.method, one.parts) as session:
        right = session.read(batch.ids).argmax(-1) == batch.labels
    asked = batch.labels != IGNORED
    assert quality.scores["accuracy"].value == pytest.approx(float(right[asked].float().mean()), abs=1e-6)
    assert sum(s.n for name, s in quality.scores.items() if "_at_" in name) == int(asked.sum())


def test_the_state_is_measured_and_grows_only_where_it_does(trainer):
    """At the end of 32 tokens: dense holds them all, a window its 8, a matrix its size; and each the convolution's two
    tokens."""
    convolution = 2 * 32 * 4
    expected = {"dense": 32 * 2 * 32 * 4, "window": 8 * 2 * 32 * 4, "deltanet": 2 * 16 * 16 * 4}
    for name, held in expected.items():
        method = {"name": name, **({"window": 8} if name == "window" else {})}
        state = exam(trainer(method)).quality(SHAPE).state
        assert state.final_payload == held + convolution
        assert state.sealed_tokens == 8


def test_memory_says_as_the_closed_form(trainer):
    memory, time = exam(trainer({"name": "based", "window": 8, "feature_dim": 4})).cost(
        SHAPE, {"decode_tokens": 4, "repetitions": 0, "warmups": 0}
    )
    assert (memory.status, time.status) == ("ok", "skipped")
    assert memory.live_payload == memory.analytic_payload
    assert memory.prompt_tokens + memory.decoded_tokens == 32


def test_what_compresses_at_the_end_of_the_prompt_is_asked_after_it_did(trainer):
    one = trainer({"name": "gist", "tokens": 2})
    state = exam(one).quality(SHAPE).state
    assert state.sealed_payload == 2 * 2 * 32 * 4 + 2 * 32 * 4


def test_scores_by_distance_are_means_within_octaves():
    right = torch.tensor([[True, False, True, True]])
    asked, distance = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[1, 2, 3, 9]])
    found, samples = score("accuracy", right, torch.zeros(1, 4), asked, {"distance": distance})
    assert found["accuracy"].value == 0.75
    assert samples == [{"correct": 0.75}]
    by = {name: (s.value, s.n) for name, s in found.items() if "_at_" in name}
    assert by == {"accuracy_at_distance_1_1": (1, 1), "accuracy_at_distance_2_3": (0.5, 2),
                  "accuracy_at_distance_8_15": (1, 1)}  # fmt: skip
    assert list(octaves(5)) == [(0, 0), (1, 1), (2, 3), (4, 7)]


def test_of_text_the_far_past_is_worth_the_loss_that_it_spares(trainer):
    """By hand: the last 8 bytes after all 40, and after the 8 before them alone."""
    task = {"name": "text", "train": [{"length": 40, "examples": 16}], "test": [{"length": 40}], "near": 8}
    one = trainer({"name": "dense"}, whole_task={**task, "examples": 6}, steps=3)
    one.run()
    scores = exam(one).quality({"length": 40}).scores
    ids = one.task.draw({"length": 40}, 6, seeded(0, "test", {"length": 40}), "test").ids

    def losses(text):
        with TrainedSession(one.model, one.method, one.parts) as session:
            found = session.read(text)[:, :-1].log_softmax(-1)
        return -found.gather(2, text[:, 1:, None])[..., 0]

    far, near = losses(ids), losses(ids[:, -16:])
    assert scores["perplexity"].value == pytest.approx(math.exp(far.mean()), rel=1e-4)
    assert scores["benefit"].value == pytest.approx(float(near[:, -8:].mean() - far[:, -8:].mean()), abs=1e-4)
