"""Every family trains on recall, by the code that serves the drop-in track."""

import pytest
import torch

from kvfrontier.runners.errors import UsageError

#: Sizes small enough that each is at work in 32 tokens.
METHODS = [
    {"name": "dense"},
    {"name": "window", "window": 8},
    {"name": "sinks", "window": 6, "sinks": 2},
    {"name": "transformer_xl", "window": 8, "block": 8},
    {"name": "compressive", "window": 8, "block": 8, "compressed": 4},
    {"name": "compressive", "window": 8, "block": 8, "compressed": 4, "pooling": "conv"},
    {"name": "infini", "segment": 8},
    {"name": "infini_delta", "segment": 8},
    {"name": "moving_average_window", "window": 8},
    {"name": "memorizing", "window": 8, "top": 4, "layer": 0, "join": "gate"},
    {"name": "alibi"},
    {"name": "linear"},
    {"name": "performer", "features": 16},
    {"name": "cosformer", "length": 64},
    {"name": "retnet"},
    {"name": "gla", "rank": 4},
    {"name": "rwkv6", "rank": 4},
    {"name": "ssd"},
    {"name": "deltanet"},
    {"name": "gated_deltanet"},
    {"name": "based", "window": 8, "feature_dim": 4},
    {"name": "rmt", "memory": 4, "segment": 8},
    {"name": "autocompressor", "summary": 2, "segment": 8},
    {"name": "gist", "tokens": 4},
    {"name": "moba", "block": 8, "topk": 2},
    {"name": "mqa"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_it_trains_through_its_own_attend(trainer, method):
    """After two steps the loss on the same texts has fallen, and every weight that is trained has a gradient: those of
    the projections of q, k and v, and the method's own."""
    one = trainer(method, batch=32, lr=0.005)
    first = one.run(until=1).loss
    named = [*one.model.named_parameters(), *one.parts.named_parameters()]
    silent = [name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    assert {name.split(".")[-2] for name, _ in named} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert one.run().loss < first


def test_learnable_parts_are_trained_with_the_model(trainer):
    one = trainer({"name": "gated_deltanet"})
    before = {name: p.detach().clone() for name, p in one.parts.named_parameters()}
    one.run()
    assert before
    assert all(not torch.equal(before[name], p) for name, p in one.parts.named_parameters())


@pytest.mark.parametrize("name", ["kivi", "fp8"])
def test_what_rounds_is_refused(trainer, name):
    with pytest.raises(UsageError, match="lets no gradient through"):
        trainer({"name": name})


def test_what_runs_the_text_again_is_refused(trainer):
    with pytest.raises(UsageError, match="cannot be trained"):
        trainer({"name": "window_recompute", "window": 8}).run()


def test_alibi_is_refused_where_there_is_no_softmax(trainer):
    with pytest.raises(UsageError, match="ALiBi"):
        trainer({"name": "gla"}, model={"positions": "alibi"})


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
def test_positions_tell_places_apart_or_do_not(trainer, positions):
    """Without positions and convolutions, attention sees a set: the last token's output does not change when the others
    change places. Under RoPE and ALiBi it does."""
    model = {"convolutions": (), "layers": 1, "positions": positions}
    one = trainer({"name": "dense"}, model=model)
    from kvfrontier.runners.train.session import TrainedSession

    ids = torch.tensor([[5, 9, 40, 2, 7]])
    moved = torch.tensor([[9, 40, 5, 2, 7]])
    with TrainedSession(one.model, one.method, one.parts) as session:
        outs = []
        for text in (ids, moved):
            session.reset()
            outs.append(session.read(text)[:, -1])
    assert torch.allclose(*outs, atol=1e-6) == (positions == "none")
