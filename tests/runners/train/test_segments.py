"""Back-propagation through time: from the loss of a later segment into an earlier one, as far as it is let."""

import pytest
import torch

from kvfrontier.runners.train.session import TrainedSession


def reach(one, cut=False):
    """Sizes of the gradient at each place's embedding, of the loss at the last place of 32 tokens."""
    ids = torch.arange(1, 33)[None]
    with TrainedSession(one.model, one.method, one.parts, grad=True) as session:
        seen = []
        hook = one.model.model.embed_tokens.register_forward_hook(lambda *args: seen.append(args[2]) or None)
        if cut:
            session.read(ids[:, :24])
            session.detach()
            out = session.read(ids[:, 24:])
        else:
            out = session.read(ids)
        hook.remove()
        for x in seen:
            x.retain_grad()
        out[0, -1].logsumexp(0).backward()
    return torch.cat([(x.grad if x.grad is not None else torch.zeros_like(x))[0].norm(dim=-1) for x in seen])


@pytest.mark.parametrize(
    "method",
    [
        {"name": "rmt", "memory": 4, "segment": 8},
        {"name": "autocompressor", "summary": 4, "segment": 8},
        {"name": "infini", "segment": 8},
        {"name": "compressive", "window": 8, "block": 8, "compressed": 8},
        {"name": "gla", "rank": 4},
    ],
    ids=lambda m: m["name"],
)
def test_a_loss_reaches_every_segment_before_it(trainer, method):
    assert (reach(trainer(method, model={"convolutions": (), "layers": 1}))[:8] > 0).all()


@pytest.mark.parametrize("method", [{"name": "rmt", "memory": 4, "segment": 8}, {"name": "gla"}, {"name": "dense"}])
def test_a_cut_ends_it_and_keeps_what_was_read(trainer, method):
    one = trainer(method, model={"convolutions": (), "layers": 1})
    whole, cut = reach(one), reach(one, cut=True)
    assert (whole[:24] > 0).all()
    assert not cut[:24].any()
    assert (cut[-1:] > 0).all()
    ids = torch.arange(1, 33)[None]
    with TrainedSession(one.model, one.method, one.parts) as session:
        at_once = session.read(ids)[:, -1]
        session.reset()
        session.read(ids[:, :24])
        session.detach()
        assert torch.allclose(session.read(ids[:, 24:])[:, -1], at_once, atol=1e-5)


def test_transformer_xl_reads_the_segment_before_and_gives_it_no_gradient(trainer):
    sizes = reach(trainer({"name": "transformer_xl", "window": 8, "block": 8}, model={"convolutions": (), "layers": 1}))
    assert not sizes[:24].any()
    assert (sizes[24:] > 0).all()


def test_pieces_of_a_text_train_as_the_whole_where_nothing_is_carried(trainer):
    """A window of one token carries nothing, so cutting the gradient changes none of it."""
    task = {"train": [{"length": 32, "pairs": 4, "examples": 16}]}
    whole, pieces = (
        trainer({"name": "window", "window": 1}, task=task, model={"kernel": 1}, bptt=bptt) for bptt in (None, 16)
    )
    assert whole.run(until=1).loss == pytest.approx(pieces.run(until=1).loss, abs=1e-6)
    for a, b in zip(whole.parameters, pieces.parameters, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_a_model_with_convolutions_forgets_them_with_the_segment(trainer):
    """What RMT carries is its memory alone: with that the same, the end of one text does not reach the next segment
    through the convolution."""
    one = trainer({"name": "rmt", "memory": 1, "segment": 8})
    with TrainedSession(one.model, one.method, one.parts) as session:
        outs = []
        for last in (3, 4):
            session.reset()
            session.read(torch.tensor([[1, 2, 5, 6, 7, 8, 9, last]]))
            session.states[0].carried.x.zero_()
            outs.append(session.read(torch.tensor([[11, 12]])))
    assert torch.equal(*outs)
