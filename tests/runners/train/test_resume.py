"""A training that was interrupted is the training that was not."""

import pytest
import torch

from kvfrontier.runners.errors import UsageError


def weights(one):
    return {**one.model.state_dict(), **{f"own.{k}": v for k, v in one.parts.state_dict().items()}}


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_training_is_equal_to_the_bit(trainer, tmp_path, stop):
    """Two batches an epoch: step 1 is in the middle of one, step 3 in the next."""
    method = {"name": "gla", "rank": 4}
    whole = trainer(method, steps=5)
    whole.run()
    file = tmp_path / "checkpoint.pt"
    trainer(method, steps=5, file=file).run(until=stop)
    again = trainer(method, steps=5, file=file)
    assert again.run().steps == 5
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(again).values(), strict=True))
    assert again.outcome.curve == whole.outcome.curve
    assert (again.outcome.tokens, again.outcome.flops) == (whole.outcome.tokens, whole.outcome.flops)


def test_the_same_seed_gives_the_same_training_and_another_does_not(trainer):
    runs = [trainer({"name": "deltanet"}, seed=seed) for seed in (3, 3, 4)]
    losses = [one.run().loss for one in runs]
    assert losses[0] == losses[1] != losses[2]
    first, second, other = map(weights, runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_finished_training_is_not_trained_again(trainer, tmp_path):
    file = tmp_path / "checkpoint.pt"
    done = trainer({"name": "dense"}, file=file).run()
    assert trainer({"name": "dense"}, file=file).run() == done


def test_the_checkpoint_of_another_training_is_not_taken_up(trainer, tmp_path):
    file = tmp_path / "checkpoint.pt"
    trainer({"name": "dense"}, file=file, seed=1).run()
    other = trainer({"name": "dense"}, file=file, seed=2).run(until=1)
    assert other.steps == 1


def test_a_broken_checkpoint_says_what_to_do(trainer, tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"checkpoint.*remove it"):
        trainer({"name": "dense"}, file=file).run()


def test_the_rate_rises_and_falls(trainer):
    settings = trainer({"name": "dense"}, warmup=0.2).settings
    assert settings.schedule(0.1) == pytest.approx(0.5, abs=1e-6)
    assert settings.schedule(0.2) == pytest.approx(1)
    assert settings.schedule(0.6) == pytest.approx(0.5)
    assert settings.schedule(1) == pytest.approx(0)
