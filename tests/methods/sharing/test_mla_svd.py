"""Low-rank keys and values against a model whose projections are of that rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kvfrontier.methods import Dense, Layer
from kvfrontier.methods.sharing.mla_svd import MLASVD, LowRank
from kvfrontier.runners.session import Session


def cut(model: Any, copy: Any, rank: int) -> Any:
    """`copy` with `model`'s weights, key and value projections replaced by the nearest of a joint rank."""
    weights = dict(model.state_dict())
    for name in [name for name in weights if "k_proj.weight" in name]:
        other = name.replace("k_proj", "v_proj")
        both = torch.cat([weights[name], weights[other]]).double()
        U, S, V = torch.linalg.svd(both)
        near = sum(S[i] * torch.outer(U[:, i], V[i]) for i in range(rank))
        weights[name], weights[other] = near.float().chunk(2)  # pyright: ignore[reportAttributeAccessIssue]
    copy.load_state_dict(weights)
    return copy


@pytest.mark.parametrize("chunk", [None, 17])
@pytest.mark.parametrize("rank", [5, 24, 60])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_rank_is_that_of_the_projections(text: Any, kind: str, rank: int, chunk: int | None) -> None:
    """Qwen2's projections have biases, which stay whole."""
    model, copy = (text.made(kind, num_key_value_heads=2) for _ in range(2))
    if kind == "qwen2":
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    ids = text.tokens()
    expected = text.own(cut(model, copy, rank), ids)
    assert text.error(model, MLASVD(rank), ids, expected, chunk) < 1e-5
    assert text.error(model, Dense(), ids, expected, chunk) > 1e-3


@pytest.mark.parametrize("kind", ["llama", "qwen2", "smollm3", "granite", "mixtral"])
def test_the_full_rank_is_dense(text: Any, kind: str) -> None:
    model, ids = text.made(kind, num_key_value_heads=2), text.tokens()
    assert text.error(model, LowRank(), ids, text.own(model, ids)) < 1e-5


def test_the_state_is_rank_elements_a_token(text: Any, llama: Any) -> None:
    with Session(llama, MLASVD(24)) as session:
        session.prefill(text.tokens()[:, :40])
        assert session.state_bytes().payload == 4 * 2 * 40 * 24 * 4
        factors: Any = session.layers[0].params
        assert factors.up.shape == (2 * (16 + 16), 24)
    planned = Layer(0, 1, 4, 2, 16, 16, 1.0)
    assert MLASVD(24).footprint(planned, 2, 40).held.payload == 2 * 40 * 24 * 4
    assert LowRank().footprint(planned, 2, 40) == Dense().footprint(planned, 2, 40)


def test_the_factors_are_the_same_every_time_and_learn(text: Any, llama: Any) -> None:
    found = []
    for _ in range(2):
        with Session(llama, MLASVD(24), grad=True) as session:
            session.prefill(text.tokens(), chunk=17).logsumexp(-1).sum().backward()
            factors: Any = session.layers[0].params
            found.append(factors.up)
    assert torch.equal(found[0], found[1])
    assert found[0].grad.abs().max() > 0


def test_what_it_cannot_cut_is_refused(text: Any, llama: Any) -> None:
    for model, method, reason in (
        (text.made("qwen3", num_key_value_heads=2, head_dim=16), MLASVD(8), "normalizes its keys"),
        (text.made("gpt_neox"), MLASVD(8), "no k_proj and v_proj of its own"),
        (llama, MLASVD(65), r"rank 65 is more than the 64 .* lower method\.rank"),
    ):
        with pytest.raises(ValueError, match=reason), Session(model, method):
            pass
    with pytest.raises(ValueError, match=r"set method\.rank to at least 1"):
        MLASVD(0)
