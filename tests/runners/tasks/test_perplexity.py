import hashlib
import json
import math

import pytest
import torch

from kvfrontier.methods import Dense, Sinks, SnapKV, Window
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks import perplexity
from kvfrontier.runners.tasks.passages import passage
from kvfrontier.runners.tasks.perplexity import Perplexity, RecentTensors, compare

SMALL = Perplexity(texts=("made", "other"), scored=64, block=16)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(perplexity, "_DENSE", RecentTensors(limit=2**20))


def run(task, loaded, method, context=300, open_session=None, open_dense=None, **options):
    open_dense = open_dense or (lambda: Session(loaded.model, Dense()))
    return task.run(open_session or (lambda: Session(loaded.model, method)), open_dense, loaded, context, 0, **options)


# Passages.


def test_a_passage_has_exactly_the_tokens_asked_for(tokenizer):
    for context in (70, 71, 300, 1000, 4096):
        drawn = passage(tokenizer, "made", context, 64, 0, 1, seed=0)
        assert (len(drawn.context) + len(drawn.scored), len(drawn.scored)) == (context, 64)


def test_every_context_scores_the_same_tokens_and_reads_the_same_text_before_them(tokenizer):
    opening = len(tokenizer.encode("a")) - len(tokenizer.encode("a", add_special_tokens=False))
    longest = passage(tokenizer, "made", 4096, 64, 0, 1, seed=0)
    for context in (100, 511, 2048):
        shorter = passage(tokenizer, "made", context, 64, 0, 1, seed=0)
        assert shorter.scored == longest.scored
        assert shorter.context[opening:] == longest.context[-(context - 64 - opening) :]
        assert shorter.context[:opening] == longest.context[:opening]


def test_passages_of_a_text_lie_apart_and_move_with_the_seed(bytes_tokenizer):
    places = [passage(bytes_tokenizer, "made", 100, 64, i, 3, seed=0).place for i in range(3)]
    assert places == sorted(set(places))
    assert passage(bytes_tokenizer, "made", 100, 64, 0, 3, seed=1).place != places[0]


def test_a_text_without_room_is_an_error_that_names_it(bytes_tokenizer):
    with pytest.raises(UsageError, match="text 'short' is too short for context 300"):
        passage(bytes_tokenizer, "short", 300, 64, 0, 1, seed=0)


#: Changes of these are changes of every score: raise Perplexity.version and write the new ones here.
GOLDEN = {"version": 1, "hash": "d0543933d6838ce9", "passage": "974c61df2ce9ed84"}


def test_passages_and_hash_are_those_of_this_version(bytes_tokenizer):
    drawn = passage(bytes_tokenizer, "made", 500, 64, 0, 1, seed=0)
    content = json.dumps([drawn.place, drawn.context, drawn.scored])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert {"version": Perplexity.version, "hash": Perplexity().hash(), "passage": digest} == GOLDEN


# Numbers.


def test_scores_are_those_worked_out_by_hand():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    # Logits are known up to a constant only.
    result = compare([q[:1].log() + 3, q[1:].log() - 1], p.log(), [1, 2], block=1)
    assert result["nll"] == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert result["blocks"]["kl"] == pytest.approx([0.25 * math.log(2), 0], abs=1e-6)
    assert result["blocks"]["agreement"] == [0, 1]


def test_too_few_predictions_are_a_defect_and_not_a_score():
    with pytest.raises(RuntimeError, match="1 predictions came for 2 tokens"):
        compare([torch.zeros(1, 3)], torch.zeros(2, 3), [0, 1], block=1)


@pytest.mark.parametrize("chunk", [None, 50])
def test_dense_agrees_with_itself_and_loses_nothing(tiny, chunk):
    scores = run(SMALL, tiny, Dense(), chunk=chunk).scores
    assert scores["agreement"].value == 1
    assert scores["kl"].value == scores["kl"].high == 0


def one_forward(loaded, task, context):
    """Mean negative log-likelihood of the scored tokens in one plain forward of the model."""
    losses = []
    for text in task.texts:
        drawn = passage(loaded.tokenizer, text, context, task.scored, 0, 1, seed=0)
        ids = torch.tensor([drawn.context + drawn.scored])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, -task.scored - 1 : -1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, -task.scored :]))
    return float(torch.stack(losses).mean())


def test_dense_perplexity_is_that_of_a_plain_forward(tiny):
    scores = run(SMALL, tiny, Dense()).scores
    assert scores["nll"].value == pytest.approx(one_forward(tiny, SMALL, 300), abs=1e-5)
    assert scores["perplexity"].value == pytest.approx(math.exp(scores["nll"].value))


@pytest.mark.slow
def test_dense_perplexity_of_the_embedded_model_is_that_of_a_plain_forward(smollm2):
    scores = run(SMALL, smollm2, Dense()).scores
    assert scores["nll"].value == pytest.approx(one_forward(smollm2, SMALL, 300), abs=1e-4)
    assert scores["kl"].value == 0
    assert scores["agreement"].value == 1


def test_what_is_dropped_at_seal_shows(tiny, stock):
    whole, cut = (run(SMALL, tiny, Dense(), open_session=lambda k=k: stock(tiny.model, k)).scores for k in (None, 32))
    assert whole["agreement"].value == 1
    assert whole["kl"].value < 1e-6
    assert cut["agreement"].value < 0.95
    assert cut["kl"].value > 1e-3


def test_the_state_is_the_one_that_was_sealed_and_scored(tiny):
    config = tiny.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tiny.model.dtype.itemsize
    # 300 tokens, of which the last 64 are scored: 236 are sealed.
    held = {
        Dense(): (236, 300),
        Window(window=100): (100, 100),
        SnapKV(budget=59, window=16): (59, 59 + 64),
    }
    for method, (sealed, final) in held.items():
        state = run(SMALL, tiny, method).state
        assert state is not None
        assert state.sealed_tokens == 236
        assert (state.sealed_payload, state.final_payload) == (sealed * per_token, final * per_token)
        assert state.share16 == pytest.approx(sealed / 236)


def test_the_more_a_window_holds_the_less_it_loses(tiny):
    losses = [run(SMALL, tiny, Window(window=w)).scores["kl"].value for w in (16, 64, 300)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-6


# The record.


def test_intervals_are_over_blocks_and_hold_the_value(tiny):
    quality = run(SMALL, tiny, Sinks(window=28, sinks=4))
    assert (quality.primary, quality.status, len(quality.samples)) == ("agreement", "ok", 2)
    for score in quality.scores.values():
        assert (score.n, score.interval) == (2 * 64 // 16, "bootstrap")
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.value < score.high
    assert [quality.scores[k].higher_is_better for k in ("agreement", "perplexity", "nll", "kl")] == [
        True,
        False,
        False,
        False,
    ]
    for sample in quality.samples:
        assert (sample["prompt_tokens"], sample["scored_tokens"]) == (300 - 64, 64)
        assert sum(sample["blocks"]["nll"]) / 4 == pytest.approx(sample["nll"])
    assert "data=made-" in quality.sample_set


def test_methods_share_one_dense_pass_a_passage_and_chunk(tiny):
    opened = []

    def open_dense():
        opened.append(1)
        return Session(tiny.model, Dense())

    first = run(SMALL, tiny, Window(window=32), open_dense=open_dense)
    assert len(opened) == 2
    assert run(SMALL, tiny, Window(window=32), open_dense=open_dense) == first
    assert len(opened) == 2
    run(SMALL, tiny, Window(window=32), open_dense=open_dense, chunk=64)
    assert len(opened) == 4


def test_what_is_remembered_is_bounded():
    recent = RecentTensors(limit=100)
    made = []

    def tensor(name, n):
        return recent.get(name, lambda: made.append(name) or torch.zeros(n, dtype=torch.uint8))

    for name in "abaca":
        tensor(name, 40)
    assert made == ["a", "b", "c"]
    tensor("b", 40)
    assert made == ["a", "b", "c", "b"]
    assert tensor("huge", 101).numel() == 101
    tensor("huge", 101)
    assert made[-2:] == ["huge", "huge"]


# Bad input.


def test_a_context_that_leaves_no_prompt_is_refused(tiny):
    with pytest.raises(
        UsageError, match="context 64 leaves nothing before the 64 tokens that are scored; raise context"
    ):
        run(SMALL, tiny, Dense(), context=64)
    assert run(SMALL, tiny, Dense(), context=65).status == "ok"


def test_a_context_beyond_the_model_s_positions_is_refused(tiny):
    with pytest.raises(UsageError, match="context 9000 is longer than the 8192 positions of tiny"):
        run(SMALL, tiny, Dense(), context=9000)
