"""Tiny random models, with weights large enough that attention is sharp, and their own logits."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from kvfrontier.methods import Method
from kvfrontier.runners.session import Session

PROMPT, TOTAL = 60, 80
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def made(kind: str, **options: Any) -> Any:
    config = AutoConfig.for_model(kind, **SIZES | options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model


def tokens(rows: int = 2, n: int = TOTAL, seed: int = 0) -> Tensor:
    return torch.randint(3, 97, (rows, n), generator=torch.Generator().manual_seed(seed))


def own(model: Any, ids: Tensor) -> Tensor:
    """Logits that the model itself gives from the end of the prompt on."""
    with torch.no_grad():
        return model(ids, use_cache=False).logits.float()[:, PROMPT - 1 :]


def logits(session: Session, ids: Tensor, chunk: int | None = 17) -> Tensor:
    """As `own`: after the prompt, and after each token that is then decoded one by one."""
    out = [session.prefill(ids[:, :PROMPT], chunk=chunk)]
    out += [session.decode(ids[:, i : i + 1]) for i in range(PROMPT, ids.shape[1])]
    return torch.stack(out, 1)


def error(model: Any, method: Method, ids: Tensor, expected: Tensor, chunk: int | None = 17) -> float:
    """The largest difference to expected logits, as a share of the largest of them."""
    with Session(model, method) as session:
        found = logits(session, ids, chunk)
        assert session.state_bytes() == session.footprint().held
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="session")
def text() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(PROMPT=PROMPT, TOTAL=TOTAL, made=made, tokens=tokens, own=own, logits=logits, error=error)


@pytest.fixture(scope="session")
def llama() -> Any:
    """Four layers, four query heads on two key/value heads of 16."""
    return made("llama", num_key_value_heads=2, head_dim=16)


@pytest.fixture(scope="session")
def deepseek() -> Callable[[str], Any]:
    """A model that caches latents of 32 elements and a shared rotated key of 16, by its kind."""

    def of(kind: str) -> Any:
        options: dict[str, Any] = {
            "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": None, "qk_rope_head_dim": 16,
            "v_head_dim": 24, "qk_nope_head_dim": 32, "moe_intermediate_size": 32, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 4,
        }  # fmt: skip
        return made(kind, **options | ({"q_lora_rank": 24} if kind == "minicpm3" else {}))

    return of
