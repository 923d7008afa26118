import pytest
import torch

from kvfrontier.methods import Dense, Sinks, SnapKV, Window
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.long_generation import LongGeneration
from kvfrontier.runners.tasks.passages import passage
from kvfrontier.runners.tasks.perplexity import StreamingPerplexity

TASK = LongGeneration(texts=("made",), new_tokens=64, block=16)
STREAM = StreamingPerplexity(texts=("made",), scored=64, block=16)


def run(task, loaded, method, context=200):
    return task.run(lambda: Session(loaded.model, method), lambda: Session(loaded.model, Dense()), loaded, context, 0)


def test_dense_attention_agrees_with_what_it_writes(tiny):
    scores = run(TASK, tiny, Dense()).scores
    assert scores["agreement"].value == 1
    assert scores["kl"].value == 0


def test_losses_are_those_of_plain_forwards_on_the_plain_model_s_continuation(tiny):
    ids = passage(tiny.tokenizer, "made", 137, 1, 0, 1, 0).context
    with torch.no_grad():
        for _ in range(64):
            ids.append(int(tiny.model(torch.tensor([ids])).logits[0, -1].argmax()))
        logits = tiny.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    nll = -logits[135:-1].gather(-1, torch.tensor(ids[136:])[:, None]).mean()
    assert run(TASK, tiny, Dense()).scores["nll"].value == pytest.approx(float(nll), abs=1e-4)


def test_what_compresses_the_prompt_alone_grows_and_a_window_does_not(tiny):
    config = tiny.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tiny.model.dtype.itemsize
    for method, tokens in ((SnapKV(budget=40, window=8), range(48, 112, 8)), (Window(window=40), [40] * 8)):
        quality = run(TASK, tiny, method)
        assert quality.samples[0]["live_payload"] == [n * per_token for n in tokens]
        assert quality.state is not None
        assert quality.state.final_payload == tokens[-1] * per_token
        assert quality.scores["kl"].value > 0


def test_what_leaves_no_prompt_or_no_block_is_refused(tiny):
    with pytest.raises(UsageError, match="leaves no prompt"):
        run(TASK, tiny, Dense(), context=64)
    with pytest.raises(ValueError, match="not a multiple"):
        LongGeneration(new_tokens=100, block=64)


def test_a_stream_is_scored_as_in_one_forward_and_never_sealed(tiny):
    """With a window that forgets nothing, and with one that does not compress at seal, streaming is plain scoring."""
    wide = run(STREAM, tiny, Window(window=300)).scores["perplexity"].value
    sample = passage(tiny.tokenizer, "made", 200, 64, 0, 1, 0)
    ids = torch.tensor([sample.context + sample.scored])
    with torch.no_grad():
        logits = tiny.model(ids).logits[0].log_softmax(-1)
    nll = -logits[135:-1].gather(-1, ids[0, 136:, None]).mean()
    assert wide == pytest.approx(float(nll.exp()), rel=1e-5)
    assert run(STREAM, tiny, Sinks(window=28, sinks=4)).scores["perplexity"].value != pytest.approx(wide)


def test_a_method_that_is_bounded_by_its_seal_alone_has_no_stream(tiny):
    with pytest.raises(UsageError, match="never ends the prompt"):
        run(STREAM, tiny, SnapKV(budget=40, window=8))


def test_a_stream_is_another_task_than_perplexity():
    assert STREAM.hash() != super(StreamingPerplexity, STREAM).hash() or STREAM.name != "perplexity"
    assert STREAM.rules()["compress_at"] == "never"
