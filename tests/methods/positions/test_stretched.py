"""Stretched positions on a plain model equal the same model under transformers' own rotary embedding of that kind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from kvfrontier.methods import Dense, Method, registry
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session

TRAINED, TEXT, PROMPT = 64, 150, 110
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
#: Half-split over the whole head; neighbouring pairs; a part of each head only.
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 2, "head_dim": 32}),
    "cohere": (CohereConfig, CohereForCausalLM, {"num_key_value_heads": 2}),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {}),
}


def model_of(kind: str, rope: dict[str, Any], layers: int = 2) -> Any:
    config_class, model_class, options = KINDS[kind]
    if kind == "gpt_neox":
        rope = {**rope, "partial_rotary_factor": 0.5}
    config = config_class(
        vocab_size=97, hidden_size=128, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=TRAINED, rope_parameters=rope, **options,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = model_class(config).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model


def ids(n: int = TEXT) -> Tensor:
    return torch.randint(3, 97, (2, n), generator=torch.Generator().manual_seed(0))


def served(model: Any, method: Method, chunk: int | None = 37) -> Tensor:
    """Logits [B, 1 + TEXT - PROMPT, V] of the prompt's last token and of each that is then decoded."""
    with Session(model, method) as s:
        logits = [s.prefill(ids()[:, :PROMPT], chunk=chunk)]
        logits += [s.decode(ids()[:, i : i + 1]) for i in range(PROMPT, TEXT)]
    return torch.stack(logits, 1)


def own(model: Any, text: Tensor) -> Tensor:
    with torch.no_grad():
        return model(text, use_cache=False).logits


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_interpolation_is_transformers_linear(kind: str) -> None:
    expected = own(model_of(kind, {**PLAIN, "rope_type": "linear", "factor": 4.0}), ids())[:, PROMPT - 1 :]
    plain = model_of(kind, PLAIN)
    assert_same(served(plain, registry.build({"name": "linear_interpolation", "factor": 4.0})), expected)
    assert not torch.allclose(own(plain, ids())[:, PROMPT - 1 :], expected, atol=1e-2)


@pytest.mark.parametrize(("factor", "fast", "slow"), [(4.0, 32.0, 1.0), (8.0, 4.0, 0.5), (2.5, 500.0, 0.001)])
@pytest.mark.parametrize("kind", KINDS)
def test_yarn_is_transformers_yarn(kind: str, factor: float, fast: float, slow: float) -> None:
    theirs = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": TRAINED}
    expected = own(model_of(kind, {**PLAIN, **theirs, "beta_fast": fast, "beta_slow": slow}), ids())[:, PROMPT - 1 :]
    method = registry.build({"name": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow})
    assert_same(served(model_of(kind, PLAIN), method), expected)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_dynamic_ntk_is_transformers_dynamic_at_every_length(factor: float) -> None:
    """With one layer nothing but the last query's own view of the past counts: the logits after n tokens are those of
    transformers' dynamic model that reads these n tokens alone, and so scales once, for n."""
    dynamic = model_of("llama", {**PLAIN, "rope_type": "dynamic", "factor": factor}, layers=1)
    expected = torch.stack([own(dynamic, ids()[:, :n])[:, -1] for n in range(PROMPT, TEXT + 1)], 1)
    method = registry.build({"name": "ntk", "factor": factor, "step": 1})
    assert_same(served(model_of("llama", PLAIN, layers=1), method), expected)


def test_dynamic_ntk_in_steps_scales_for_the_end_of_the_step() -> None:
    dynamic = model_of("llama", {**PLAIN, "rope_type": "dynamic", "factor": 1.0}, layers=1)
    expected = []
    for n in range(PROMPT, TEXT + 1):
        end = TRAINED + -(-(n - TRAINED) // 32) * 32
        # What comes after a token cannot be seen by it, and only lets the model scale for the longer text.
        longer = torch.cat([ids()[:, :n], ids(end - n)], 1) if end > n else ids()[:, :n]
        expected.append(own(dynamic, longer)[:, n - 1])
    method = registry.build({"name": "ntk", "step": 32})
    assert_same(served(model_of("llama", PLAIN, layers=1), method), torch.stack(expected, 1))


def test_up_to_the_trained_length_ntk_changes_nothing() -> None:
    plain, text = model_of("llama", PLAIN), ids()[:, :TRAINED]
    expected = own(plain, text)[:, -1]
    with Session(plain, registry.build({"name": "ntk"})) as s:
        assert_same(s.prefill(text, chunk=17), expected)


@pytest.mark.parametrize(
    ("params", "reach"),
    [
        ({"name": "linear_interpolation", "factor": 2.0}, 2 * TRAINED),
        ({"name": "yarn", "factor": 2.0}, 2 * TRAINED),
        ({"name": "self_extend", "group": 4, "window": 16}, 4 * (TRAINED - 16 + 4)),
        ({"name": "cosformer", "length": 40}, 40),
    ],
)
def test_a_stretched_model_is_not_endless(params: dict[str, Any], reach: int) -> None:
    plain = model_of("llama", PLAIN)
    with Session(plain, registry.build(params)) as s:
        assert s.prefill(ids(reach)).isfinite().all()
        s.reset()
        with pytest.raises(UsageError, match=f"longer than the {reach} that this method makes"):
            s.prefill(ids(reach + 1))
    with Session(plain, Dense()) as s, pytest.raises(UsageError, match="longer than the 64 positions"):
        s.prefill(ids(TRAINED + 1))


@pytest.mark.parametrize(
    "params",
    [
        {"name": "ntk"}, {"name": "lm_infinite", "window": TRAINED}, {"name": "window", "window": TRAINED},
        {"name": "sinks", "window": TRAINED - 4}, {"name": "infllm", "window": TRAINED - 5, "sinks": 4, "block": 8},
        {"name": "h2o", "budget": 24},
    ],
)  # fmt: skip
def test_what_attends_to_no_more_than_the_trained_length_reaches_any(params: dict[str, Any]) -> None:
    method = registry.build(params)
    if params["name"] == "h2o":  # at the text's own positions it looks back to the beginning
        assert method.reach(TRAINED) == TRAINED
        method = registry.build({"name": "cached", "selection": params, "positions": "in_cache"})
    assert method.reach(TRAINED) == math.inf
    with Session(model_of("llama", PLAIN), method) as s:
        assert s.prefill(ids(10 * TRAINED), chunk=128).isfinite().all()


@pytest.mark.parametrize(
    "params",
    [
        {"name": "lm_infinite", "window": TRAINED + 1}, {"name": "window", "window": TRAINED + 1},
        {"name": "sinks", "window": TRAINED - 3}, {"name": "infllm", "window": TRAINED - 4, "sinks": 4},
        {"name": "sinks", "window": 8, "positions": "original"}, {"name": "window_recompute", "window": TRAINED + 1},
        {"name": "rag", "passage": TRAINED // 4}, {"name": "cached", "positions": "in_cache"},
        {"name": "cached", "selection": {"name": "snapkv", "budget": 32}, "positions": "in_cache"},
        {"name": "longformer", "window": 33, "dilation": 2, "global_tokens": 0},
    ],
)  # fmt: skip
def test_what_attends_to_more_than_the_trained_length_ends_there(params: dict[str, Any]) -> None:
    """A cache of more slots than there are positions has distances that the model never saw."""
    with (
        Session(model_of("llama", PLAIN), registry.build(params)) as s,
        pytest.raises(UsageError, match=f"longer than the {TRAINED} positions"),
    ):
        s.prefill(ids(TRAINED + 1))
