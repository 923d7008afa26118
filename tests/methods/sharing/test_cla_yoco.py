"""Layers that share a cache, against a model written out, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kvfrontier.methods import Dense, Layer, Layers, PerLayer, Window
from kvfrontier.methods.selection.snapkv import SnapKVSelection
from kvfrontier.methods.sharing.cla import CLA, Shared
from kvfrontier.methods.sharing.yoco import YOCO
from kvfrontier.runners.session import Session


@torch.no_grad()
def eager(model: Any, ids: Tensor, source: Callable[[int], int], window: Callable[[int], int]) -> Tensor:
    """Logits [B, T, V] of a Llama whose layer i attends to the keys and values that layer source(i) projected, each
    query to its last window(i)."""
    body = model.model
    x, positions = body.embed_tokens(ids), torch.arange(ids.shape[1])[None]
    cos, sin = body.rotary_emb(x, positions)
    seen = torch.arange(ids.shape[1])
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for i, block in enumerate(body.layers):
        h, module = block.input_layernorm(x), block.self_attn
        q, k, v = (p(h).unflatten(2, (-1, 16)).transpose(1, 2) for p in (module.q_proj, module.k_proj, module.v_proj))
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        kept[i] = k, v
        k, v = (y.repeat_interleave(2, 1) for y in kept[source(i)])
        logits = q @ k.transpose(2, 3) * 16**-0.5
        hidden = (seen[None] > seen[:, None]) | (seen[None] <= seen[:, None] - window(i))
        out = logits.masked_fill(hidden, float("-inf")).softmax(-1) @ v
        x = x + module.o_proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.post_attention_layernorm(x))
    return model.lm_head(body.norm(x))


ALL = 10**9


def test_the_model_written_out_is_the_model(text: Any, llama: Any) -> None:
    ids = text.tokens()
    found = eager(llama, ids, lambda i: i, lambda i: ALL)[:, text.PROMPT - 1 :]
    torch.testing.assert_close(found, text.own(llama, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 17])
@pytest.mark.parametrize(
    ("factor", "sources"), [(1, [0, 1, 2, 3]), (2, [0, 0, 2, 2]), (3, [0, 0, 0, 3]), (4, [0, 0, 0, 0])]
)
def test_layers_read_the_first_of_their_group(
    text: Any, llama: Any, factor: int, sources: list[int], chunk: int | None
) -> None:
    ids = text.tokens()
    expected = eager(llama, ids, lambda i: sources[i], lambda i: ALL)[:, text.PROMPT - 1 :]
    assert text.error(llama, CLA(factor), ids, expected, chunk) < 1e-5


@pytest.mark.parametrize("chunk", [None, 17])
def test_the_second_half_reads_the_middle_layer(text: Any, llama: Any, chunk: int | None) -> None:
    ids = text.tokens()
    expected = eager(llama, ids, lambda i: min(i, 2), lambda i: 24 if i < 2 else ALL)[:, text.PROMPT - 1 :]
    assert text.error(llama, YOCO(window=24), ids, expected, chunk) < 1e-5


@pytest.mark.parametrize(("layers", "held"), [(4, (24, 24, 60, 0)), (5, (24, 24, 60, 0, 0))])
def test_an_odd_layer_belongs_to_the_second_half(text: Any, layers: int, held: tuple[int, ...]) -> None:
    model = text.made("llama", num_key_value_heads=2, head_dim=16, num_hidden_layers=layers)
    with Session(model, YOCO(window=24)) as session:
        session.prefill(text.tokens()[:, : text.PROMPT])
        assert session.state_bytes().payload == 2 * sum(held) * 2 * 2 * 16 * 4


@pytest.mark.parametrize(("method", "caches"), [(CLA(2), 2), (CLA(3), 2), (CLA(4), 1), (Dense(), 4)], ids=repr)
def test_a_shared_cache_is_held_and_counted_once(text: Any, llama: Any, method: Any, caches: int) -> None:
    with Session(llama, method) as session:
        session.prefill(text.tokens()[:, :40])
        assert session.state_bytes().payload == caches * 2 * 40 * 2 * (16 + 16) * 4
        assert session.state_bytes() == session.footprint().held
        assert len({id(state) for state in session.states}) == caches
        child = session.fork()
        assert len({id(state) for state in child.states}) == caches


def test_padded_rows_share_too(text: Any, llama: Any) -> None:
    ids = text.tokens()
    mask = torch.ones(2, text.PROMPT, dtype=torch.long)
    mask[1, :23] = 0
    for method in (CLA(2), YOCO(window=24)):
        with Session(llama, method) as session:
            both = session.prefill(ids[:, : text.PROMPT], attention_mask=mask, chunk=10)
            assert session.state_bytes() == session.footprint().held
            session.reset()
            alone = session.prefill(ids[1:, 23 : text.PROMPT])
        assert (both[1:] - alone).abs().max() < 1e-4


def test_gradients_flow_back_from_the_layers_that_read(text: Any) -> None:
    """The producer's projections learn from all the layers that read it; a reader's own get no gradient."""
    model = text.made("llama", num_key_value_heads=2, head_dim=16).requires_grad_(True)
    with Session(model, CLA(2), grad=True) as session:
        session.prefill(text.tokens(1, 30), chunk=11).logsumexp(-1).sum().backward()
    grads = [block.self_attn.k_proj.weight.grad for block in model.model.layers]
    assert [g is not None and bool(g.abs().max() > 0) for g in grads] == [True, False, True, False]


def test_layers_with_windows_latents_or_sharing_of_their_own_are_refused(text: Any, llama: Any, deepseek: Any) -> None:
    windowed = text.made("mistral", num_key_value_heads=2, head_dim=16, sliding_window=24)
    for model, method, reason in (
        (windowed, CLA(2), "layer 0 has a window of the model's own"),
        (windowed, YOCO(), "layer 2 has a window of the model's own"),
        (deepseek("deepseek_v3"), CLA(2), "layer 0 has latents"),
    ):
        with pytest.raises(ValueError, match=reason), Session(model, method):
            pass
    with pytest.raises(ValueError, match="of another layer already"):
        CLA(2).validate(Layer(3, 4, 4, 2, 16, 16, 1.0, source=1))
    with pytest.raises(ValueError, match=r"set method\.factor to at least 1"):
        CLA(0)
    with pytest.raises(ValueError, match="plain cache of every token"):
        Shared(SnapKVSelection(30, 8, 5))


def test_another_method_in_a_group_is_refused(llama: Any) -> None:
    """Layer 3 would read layer 2, which has a window."""
    method = PerLayer(CLA(2), ((Layers("2"), Window(8)),))
    with pytest.raises(ValueError, match=r"layer 3 .* reads the keys and values of layer 2"), Session(llama, method):
        pass
