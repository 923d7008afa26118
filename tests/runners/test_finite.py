"""Logits that are not finite end a sample, and the record says where."""

from __future__ import annotations

import pytest
import torch

from kvfrontier import methods
from kvfrontier.runners import models
from kvfrontier.runners.finite import FiniteSession
from kvfrontier.runners.guard import NotFinite, guarded
from kvfrontier.runners.record import Quality
from kvfrontier.runners.session import Session


@pytest.fixture
def model():
    return models.load({"kind": "tiny", "layers": 1, "dtype": "float32", "device": "cpu"}).model


def broken_at(model, tokens: int) -> None:
    """From the call on that reads this many tokens in all, the head gives NaN at the last of them."""
    seen = [0]

    def spoil(module, inputs, logits):
        seen[0] += inputs[0].shape[1]
        if seen[0] >= tokens:
            logits[..., -1, 7] = float("nan")

    model.get_output_embeddings().register_forward_hook(spoil)


def test_the_step_at_which_logits_became_nan_is_recorded(model):
    ids = torch.arange(1, 13)[None]

    def run() -> Quality:
        with FiniteSession(model, methods.Dense()) as session:
            session.prefill(ids[:, :8])
            for i in range(8, 12):
                session.decode(ids[:, i : i + 1])
        return Quality(status="ok")

    assert run().status == "ok"
    broken_at(model, 3)  # one position of the prompt, then one a token: the third is the tenth token of the text
    block = guarded(Quality, run, lambda _: None)
    assert block.status == "failed"
    assert "NotFinite: the logits after token 9 (counted from 0) are not finite" in block.reason
    assert block.failure is not None
    assert (block.failure.kind, block.failure.step) == ("not_finite", 9)
    assert "in run" in block.failure.traceback


def test_a_question_asked_of_a_fork_is_looked_at_too(model):
    with FiniteSession(model, methods.Dense()) as session:
        session.prefill(torch.arange(1, 9)[None])
        broken_at(model, 1)
        with session.fork() as child, pytest.raises(NotFinite):
            child.decode(torch.tensor([[3]]))


def test_what_is_timed_is_not_looked_at(model):
    with Session(model, methods.Dense()) as session:
        broken_at(model, 1)
        assert session.prefill(torch.arange(1, 9)[None]).isnan().any()
