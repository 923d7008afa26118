import pytest
import torch

from kvfrontier.runners import models


def load(**options):
    return models.load({"kind": "tiny", "device": "cpu", **options})


def logits(loaded):
    with torch.no_grad():
        return loaded.model(torch.arange(40)[None]).logits


def test_equal_parameters_give_equal_weights_whatever_was_drawn_before():
    first = load()
    state = torch.random.get_rng_state()
    torch.rand(3)
    torch.testing.assert_close(logits(load()), logits(first), rtol=0, atol=0)
    assert load().revision == first.revision
    assert load(seed=1).revision != first.revision
    torch.random.set_rng_state(state)
    load()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_its_sizes_are_those_asked_for():
    loaded = load(layers=3, heads=6, kv_heads=3, head_dim=8, hidden=24, intermediate=40, max_context=100)
    config = loaded.model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (3, 6, 3)
    assert (config.head_dim, config.hidden_size, config.intermediate_size) == (8, 24, 40)
    assert loaded.max_context == 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_of_a_dtype_are_those_of_float32_rounded(dtype):
    loaded = load(dtype=dtype)
    assert loaded.dtype == models.resolve_dtype(dtype)
    assert loaded.revision == load().revision
    assert torch.equal(loaded.model.lm_head.weight, load().model.lm_head.weight.to(loaded.dtype))
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_attention_looks_somewhere():
    """With weights as small as usual every token would be attended alike, and no eviction would be noticed."""
    loaded = load()
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = loaded.model(torch.randint(0, 256, (1, 64), generator=torch.manual_seed(0)), output_attentions=True)
    assert out.attentions[0][0, :, -1].max() > 5 / 64


@pytest.mark.parametrize(
    "text", ["plain", "  two  spaces\n\tand a line", "déjà vu 日本 \N{GRINNING FACE}", "<|im_end|>", ""]
)
def test_a_token_is_a_byte_and_text_survives(text):
    tokenizer = load().tokenizer
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == text


def test_its_special_tokens_stand_apart():
    loaded = load()
    assert loaded.tokenizer.encode("a<eos>")[1:] == [loaded.tokenizer.eos_token_id]
    assert len(loaded.tokenizer) == loaded.model.config.vocab_size == 258
    assert loaded.model.config.eos_token_id == loaded.tokenizer.eos_token_id


def test_a_chat_message_is_a_line():
    messages = [{"role": "user", "content": "What?"}]
    text = load().tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.rstrip("\n") == "What?"
    assert text.endswith("\n")
