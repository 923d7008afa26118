"""The bridge against the models' own attention, on tiny random configurations of many architectures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM

from kvfrontier.methods import Dense, Kivi, Layers, PerLayer, Sinks, Window
from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Buf, State, measure
from kvfrontier.runners.bridge import NAME, Bridge, ModelRope, UnknownRope, UnsupportedModel
from kvfrontier.runners.session import Session

TOLERANCE = 1e-4
PROMPT, TOTAL = 60, 80
HYBRID_WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 24}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": None, "qk_rope_head_dim": 16, "v_head_dim": 24,
    "qk_nope_head_dim": 32, "head_dim": None, "moe_intermediate_size": 32, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 4,
}  # fmt: skip

#: What differs from a four-layer model of 64 with four query heads on two key/value heads of 16. None: not given.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen3": {},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "gemma3_text": {**HYBRID_WINDOWS, "query_pre_attn_scalar": 16},
    "phi": {"head_dim": None},
    "phi3": {"sliding_window": 24, "head_dim": None},
    "gpt_neox": {"head_dim": None, "num_key_value_heads": None},
    "olmo2": {},
    "olmo3": HYBRID_WINDOWS,
    "gpt_oss": {"sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": MOE,
    "qwen3_next": {
        **MOE, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "shared_expert_intermediate_size": 32,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1},
    "glm4": {},
    "cohere2": HYBRID_WINDOWS,
    "smollm3": {},
    "opt": {"head_dim": None, "num_key_value_heads": None, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": {"head_dim": None, "num_key_value_heads": None},
}  # fmt: skip
#: Their own sdpa path raises or leaves something out.
EAGER = {"gemma2", "gpt_oss", "gemma3n_text"}


def tiny(kind: str, **changes: Any) -> Any:
    """A random model with weights large enough that attention is sharp."""
    options: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, **KINDS.get(kind, {}), **changes,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{key: value for key, value in options.items() if value is not None})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "conv" not in name:
                    weight.mul_(4)
    if kind in EAGER:
        model.set_attn_implementation("eager")
    return model


def tokens(rows: int = 2, n: int = TOTAL, seed: int = 0) -> Tensor:
    return torch.randint(3, 97, (rows, n), generator=torch.Generator().manual_seed(seed))


def own(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits.float()


# ------------------------------------------------------------------------------------------- the oracle


@dataclass
class Past(State):
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Plain(Method):
    """Dense attention as a textbook has it, with window, soft-cap and sinks: shares no code with methods/."""

    shareable = True

    def init_state(self, layer: Layer, batch: int) -> Past:
        k, v = (
            torch.empty(batch, layer.hkv, 0, n, dtype=layer.dtype, device=layer.device) for n in (layer.d, layer.dv)
        )
        return Past(k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        if layer.source is None:
            state.k, state.v = torch.cat([state.k, k], 2), torch.cat([state.v, v], 2)
        n, T = state.k.shape[2], q.shape[2]
        i, j = torch.arange(n - T, n)[:, None], torch.arange(n)[None]
        seen = (j <= i) if layer.window is None else (j <= i) & (j > i - layer.window)
        logits = q @ state.k.repeat_interleave(layer.group, 1).transpose(2, 3) * layer.scale
        if layer.softcap is not None:
            logits = layer.softcap * torch.tanh(logits / layer.softcap)
        logits = logits.masked_fill(~seen, float("-inf"))
        if step.sinks is not None:
            extra = step.sinks.reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            weights = torch.cat([logits, extra], -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        return weights @ state.v.repeat_interleave(layer.group, 1)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Footprint.of(batch * (prompt + new) * layer.kv_bytes)


@dataclass(frozen=True)
class Failing(Plain):
    """Fails in the third layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        if layer.index == 2:
            raise ArithmeticError("deliberately")
        return super().attend(q, k, v, state, layer, step)


@pytest.fixture
def plain_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle serves the model's own windowed layers too."""
    monkeypatch.setattr("kvfrontier.methods.Window", lambda window: Plain())


def logits_by(session: Session, ids: Tensor, chunk: int | None) -> Tensor:
    """Logits at PROMPT - 1 .. TOTAL - 1: after the prompt, ten tokens at once and ten one by one."""
    out = [session.prefill(ids[:, :PROMPT], chunk=chunk)[:, None]]
    out += session._decode(ids[:, PROMPT : PROMPT + 10], keep=None)[:, None].unbind(1)
    out += [session.decode(ids[:, i : i + 1])[:, None] for i in range(PROMPT + 10, ids.shape[1])]
    return torch.cat(out, 1)


# ------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize("chunk", [None, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_models_own(kind: str, chunk: int | None, plain_windows: None) -> None:
    model, ids = tiny(kind), tokens()
    expected = own(model, ids)[:, PROMPT - 1 :]
    with Session(model, Plain()) as session:
        assert (logits_by(session, ids, chunk) - expected).abs().max() < TOLERANCE
        if chunk is None:
            windows = {layer.window for layer in session.layers}
            wanted = {
                "mistral": {24},
                "phi3": {24},
                "gemma2": {24, None},
                "gemma3_text": {24, None},
                "gpt_oss": {24, None},
            }
            assert windows == wanted.get(kind, {24, None} if KINDS[kind] is HYBRID_WINDOWS else {None})
            assert session.state_bytes() == session.footprint().held


@pytest.mark.parametrize("kind", KINDS)
def test_dense_with_the_models_windows_equals_the_models_own(kind: str) -> None:
    model, ids = tiny(kind), tokens()
    expected = own(model, ids)[:, PROMPT - 1 :]
    with Session(model, Dense()) as session:
        assert (logits_by(session, ids, 17) - expected).abs().max() < TOLERANCE
        assert session.state_bytes() == session.footprint().held
        for layer, method in zip(session.layers, session.methods, strict=True):
            if layer.window is not None:  # drops what it cannot see
                assert method.footprint(layer, 2, PROMPT, TOTAL - PROMPT).held.live == 2 * layer.window * layer.kv_bytes


def test_other_methods_by_layer_leave_the_models_windows_alone() -> None:
    model = tiny("gemma2")
    chosen = PerLayer(Dense(), ((Layers("/1"), Kivi(4, 16, 16)),))
    with Session(model, chosen) as session:
        session.prefill(tokens()[:, :PROMPT])
        for layer, method in zip(session.layers, session.methods, strict=True):
            assert method == (Kivi(4, 16, 16) if layer.window is None else Window(24))
        assert session.state_bytes() == session.footprint().held
        windowed = next(layer.index for layer in session.layers if layer.window is not None)
    idle = PerLayer(Dense(), ((Layers(str(windowed)), Kivi(4, 16, 16)),))
    with pytest.raises(ValueError, match=rf"layers {windowed} have a window of 24 of the model's own"):
        Session(model, idle).__enter__()


@pytest.mark.parametrize("chunk", [None, 96])
def test_logits_equal_the_embedded_models_own(smollm2: Any, chunk: int | None) -> None:
    text = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 14
    ids = smollm2.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = own(smollm2.model, ids)[:, -21:]
    with Session(smollm2.model, Dense()) as session:
        got = [session.prefill(ids[:, :-20], chunk=chunk)[:, None]]
        got += session._decode(ids[:, -20:-10], keep=None)[:, None].unbind(1)
        got += [session.decode(ids[:, i : i + 1 or None])[:, None] for i in range(-10, 0)]
    assert (torch.cat(got, 1) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "qwen3_next"])
def test_left_padded_rows_equal_each_row_alone(kind: str) -> None:
    model, ids = tiny(kind), tokens()
    pads = (0, 23)
    mask = torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, : pads[1]] = 0
    with Session(model, Sinks(window=20, sinks=4)) as session:
        rows = []
        for b, pad in enumerate(pads):
            session.reset()
            rows.append([session.prefill(ids[b : b + 1, pad:PROMPT])])
            rows[b] += [session.decode(ids[b : b + 1, i : i + 1]) for i in range(PROMPT, TOTAL)]
        session.reset()
        batch = [session.prefill(ids[:, :PROMPT], chunk=30, attention_mask=mask)]
        batch += [session.decode(ids[:, i : i + 1]) for i in range(PROMPT, TOTAL)]
        assert session.state_bytes() == session.footprint().held
    for got, first, second in zip(batch, *rows, strict=True):
        assert (got - torch.cat([first, second])).abs().max() < TOLERANCE


def test_gradients_equal_the_models_own() -> None:
    model, ids = tiny("llama"), tokens(n=40)
    model(ids).logits[:, -1].logsumexp(-1).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with Session(model, Dense(), grad=True) as session:
        session.prefill(ids, chunk=13).logsumexp(-1).sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, expected[name], atol=1e-5 + 1e-4 * float(expected[name].abs().max())), name


def test_without_grad_no_graph_is_kept() -> None:
    with Session(tiny("llama"), Dense()) as session:
        assert not session.prefill(tokens()).requires_grad


def test_bf16_is_served_in_bf16() -> None:
    model = tiny("llama").to(torch.bfloat16)
    with Session(model, Dense()) as session:
        logits = session.prefill(tokens())
        assert session.layers[0].dtype == torch.bfloat16
        assert logits.dtype == torch.float32
        assert session.state_bytes() == session.footprint().held


def test_fake_tensors_hold_the_same_bytes() -> None:
    found, config = [], tiny("llama").config
    for mode in (contextlib.nullcontext(), FakeTensorMode()):
        with mode:
            model = transformers.LlamaForCausalLM(config).eval()
            ids = torch.zeros(2, 50, dtype=torch.long)
            with Session(model, Sinks(window=12, sinks=4)) as session:
                session.prefill(ids[:, :40], chunk=16)
                session.decode(ids[:, 40:])
                found.append(session.state_bytes())
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------------- rotation


@dataclass(frozen=True)
class Spy(Plain):
    """Notes each layer's q, k, and what they were before RoPE."""

    unrotated = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        SEEN.append((layer, q, k, *step.pre(), step.pos))
        return super().attend(q, k, v, state, layer, step)


SEEN: list[Any] = []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr("kvfrontier.methods.Window", lambda window: Spy())
    SEEN.clear()
    yield SEEN
    SEEN.clear()


def test_keys_before_rope_are_bitwise_the_projections(seen: list[Any]) -> None:
    model, made = tiny("llama"), []
    hooks = [m.self_attn.k_proj.register_forward_hook(lambda m, i, out: made.append(out)) for m in model.model.layers]
    with Session(model, Spy()) as session:
        session.prefill(tokens(), chunk=31)
    for hook in hooks:
        hook.remove()
    assert len(made) == len(seen) == 3 * 4
    for projection, (_, _, _, _, k_pre, _) in zip(made, seen, strict=True):
        assert torch.equal(k_pre, projection.view(*projection.shape[:2], 2, 16).transpose(1, 2))


ROPED = ["llama", "gemma3_text", "phi", "phi3", "gpt_neox", "glm4", "gpt_oss", "qwen3_next", "cohere2", "smollm3"]


@pytest.mark.parametrize("kind", ROPED)
def test_a_layers_rope_repeats_and_undoes_the_models(kind: str, seen: list[Any]) -> None:
    with Session(tiny(kind), Spy()) as session:
        session.prefill(tokens(), chunk=31)
        layers = session.layers
    rotated = 0
    for layer, q, k, q_pre, k_pre, pos in seen:
        if layer.rope is None:
            assert k_pre is k
            continue
        rotated += 1
        assert torch.allclose(layer.rope.apply(k_pre, pos), k, atol=2e-5)
        assert torch.allclose(layer.rope.apply(q_pre, pos), q, atol=2e-5)
        assert torch.allclose(layer.rope.invert(k, pos), k_pre, atol=2e-5)
        angles = pos[..., None] * layer.rope.frequencies
        assert torch.allclose(layer.rope.rotate(k_pre, angles), k, atol=2e-5)
        assert torch.allclose(layer.rope.rotate(q_pre, angles, 2.0)[..., 0], 2 * q[..., 0], atol=4e-5)
        assert layer.rope.trained == 512
        assert not torch.allclose(k_pre, k, atol=1e-2)
    assert rotated
    bare = [layer.index for layer in layers if layer.rope is None]
    assert bare == {"smollm3": [3], "cohere2": [1, 3]}.get(kind, [])


def test_partial_rotation_turns_the_first_dimensions_only() -> None:
    with Session(tiny("gpt_neox"), Dense()) as session:
        rope = session.layers[0].rope
    assert isinstance(rope, ModelRope)
    assert rope.dims == 4
    x = torch.randn(1, 4, 5, 16)
    moved = rope.apply(x, torch.arange(5)[None] + 7)
    assert torch.equal(moved[..., 4:], x[..., 4:])
    assert not torch.allclose(moved[..., :4], x[..., :4])


def test_gemma3_turns_its_windowed_and_full_layers_at_different_speeds() -> None:
    model = tiny("gemma3_text")
    with Session(model, Dense()) as session:
        windowed, full = (layer.rope for layer in session.layers[:2])
    x, positions = torch.ones(1, 1, 1, 16), torch.tensor([[50]])
    assert windowed is not None
    assert full is not None
    assert not torch.allclose(windowed.apply(x, positions), full.apply(x, positions), atol=1e-2)


def test_rotation_carries_yarns_attention_factor(seen: list[Any]) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4}
    model = tiny("llama", rope_parameters=yarn)
    with Session(model, Spy()) as session:
        session.prefill(tokens())
    layer, _, k, _, k_pre, pos = seen[0]
    assert k.norm() > 1.1 * k_pre.norm()
    assert torch.allclose(layer.rope.invert(k, pos), k_pre, atol=2e-5)
    assert torch.allclose(layer.rope.apply(k_pre, pos), k, atol=2e-5)
    assert torch.allclose(layer.rope.rotate(k_pre, pos[..., None] * layer.rope.frequencies), k, atol=2e-5)


def test_unrotated_keys_come_from_inversion_where_nothing_was_kept(seen: list[Any]) -> None:
    """Where no method says that it reads them the bridge keeps nothing; asking still works."""
    with Session(tiny("llama"), Spy()) as session:
        session.unrotated = False
        session.prefill(tokens())
    for layer, _, k, _, k_pre, pos in seen:
        assert torch.equal(k_pre, layer.rope.invert(k, pos))


@pytest.mark.parametrize("kind", ["llama", "phi", "gpt_oss", "opt"])
def test_positions_in_the_cache_equal_dense_until_something_leaves(kind: str) -> None:
    model, ids = tiny(kind), tokens()
    expected = own(model, ids)[:, -1]
    with Session(model, Sinks(window=200)) as session:
        assert (session.prefill(ids, chunk=17) - expected).abs().max() < TOLERANCE


def test_keys_that_change_after_their_rotation_cannot_be_moved() -> None:
    model, ids = tiny("hunyuan_v1_dense"), tokens()
    expected = own(model, ids)[:, -1]
    with Session(model, Dense()) as session:
        assert (session.prefill(ids) - expected).abs().max() < TOLERANCE
        assert isinstance(session.layers[0].rope, UnknownRope)
    with Session(model, Sinks(window=200)) as session, pytest.raises(UnsupportedModel, match="after their rotation"):
        session.prefill(ids)


# ------------------------------------------------------------------------------------------- restoring


def fingerprint(model: Any) -> tuple[Any, ...]:
    file = sys.modules[type(model.model.layers[0].self_attn).__module__]
    return (
        model.config._attn_implementation,
        file.apply_rotary_pos_emb,
        dict(AttentionInterface._global_mapping),
        dict(AttentionMaskInterface._global_mapping),
        sorted(vars(model.model.rotary_emb)),
    )


def test_the_model_is_restored() -> None:
    model = tiny("llama")
    before, expected = fingerprint(model), own(model, tokens())
    with Session(model, Dense()) as session:
        session.prefill(tokens())
        assert model.config._attn_implementation == NAME
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert torch.equal(own(model, tokens()), expected)


def test_the_model_is_restored_when_a_method_fails() -> None:
    model = tiny("llama")
    before = fingerprint(model)
    with pytest.raises(ArithmeticError, match="deliberately"), Session(model, Failing()) as session:
        session.prefill(tokens())
    assert fingerprint(model) == before


def test_the_model_is_restored_when_entering_fails() -> None:
    model = tiny("llama")
    before = fingerprint(model)

    @dataclass(frozen=True)
    class Refusing(Plain):
        def validate(self, layer: Layer) -> None:
            raise ValueError("not this layer")

    with pytest.raises(ValueError, match="not this layer"):
        Session(model, Refusing()).__enter__()
    assert fingerprint(model) == before


def test_the_model_is_restored_when_installing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    before = fingerprint(model)

    def fail(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvfrontier.runners.bridge._tap", fail)
    with pytest.raises(KeyboardInterrupt):
        Session(model, Dense()).__enter__()
    assert fingerprint(model) == before


def test_sessions_on_one_model_may_end_in_any_order() -> None:
    model = tiny("llama")
    before = fingerprint(model)
    first, second = Session(model, Dense()), Session(model, Sinks(window=20, sinks=4))
    first.__enter__()
    second.__enter__()
    first.__exit__()
    second.prefill(tokens())
    second.__exit__()
    assert fingerprint(model) == before


def test_interleaved_sessions_do_not_meet() -> None:
    model, ids, other = tiny("llama"), tokens(), tokens(seed=5)
    with Session(model, Dense()) as a:
        expected = a.prefill(ids), a.decode(other[:, :1])
    with Session(model, Dense()) as a, Session(model, Sinks(window=8, sinks=2)) as b:
        first = a.prefill(ids)
        b.prefill(other, chunk=9)
        b.decode(ids[:, :1])
        second = a.decode(other[:, :1])
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])


def test_models_that_share_a_configuration_may_be_served_at_once() -> None:
    one = tiny("llama")
    two = transformers.LlamaForCausalLM(one.config).eval()
    before, expected = fingerprint(one), [own(m, tokens())[:, -1] for m in (one, two)]
    with Session(one, Dense()) as a:
        with Session(two, Dense()) as b:
            got = [a.prefill(tokens()), b.prefill(tokens())]
        with pytest.raises(RuntimeError, match="outside its session"):
            two(tokens())
        a.decode(tokens()[:, :1])
    assert fingerprint(one) == before
    for x, y in zip(got, expected, strict=True):
        assert (x - y).abs().max() < TOLERANCE


def test_calling_the_model_itself_inside_a_session_is_an_error() -> None:
    model = tiny("llama")
    with Session(model, Dense()), pytest.raises(RuntimeError, match="outside its session"):
        model(tokens())


# ------------------------------------------------------------------------------------------- hybrids


def test_a_hybrids_own_states_are_counted() -> None:
    model, ids = tiny("qwen3_next"), tokens()
    with Session(model, Dense()) as session:
        session.prefill(ids[:, :PROMPT])
        held = session.state_bytes().payload
        foreign = measure(session.state[-1]).payload
        attention = sum(measure(s).payload for s in session.states)
    conv, recurrent = 2 * (2 * 2 * 16 + 4 * 16) * 4 * 4, 2 * 4 * 16 * 16 * 4
    assert foreign == 3 * (conv + recurrent)
    assert attention == 2 * PROMPT * session._methods[0].footprint(FULL, 1, 1).held.payload
    assert held == foreign + attention


FULL = Layer(0, 1, 4, 2, 16, 16, 1.0)


@pytest.mark.parametrize("kind", ["qwen3_next", "falcon_h1"])
def test_a_hybrids_own_states_are_forked_and_reset(kind: str) -> None:
    model, ids, other = tiny(kind), tokens(), tokens(seed=3)
    with Session(model, Dense()) as session:
        session.prefill(ids[:, :PROMPT])
        expected = session.decode(ids[:, PROMPT : PROMPT + 1]), session.decode(ids[:, PROMPT + 1 : PROMPT + 2])
        session.reset()
        session.prefill(other)
        session.reset()
        session.prefill(ids[:, :PROMPT])
        first = session.decode(ids[:, PROMPT : PROMPT + 1])
        child = session.fork()
        child.decode(other[:, :7])
        saved = session.snapshot()
        second = session.decode(ids[:, PROMPT + 1 : PROMPT + 2])
        session.restore(saved)
        third = session.decode(ids[:, PROMPT + 1 : PROMPT + 2])
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, expected[1])


def test_a_hybrid_that_restarts_at_every_call_is_read_at_once() -> None:
    options = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
    model, ids = tiny("jamba", mamba_d_state=8, head_dim=None, **options), tokens()
    expected = own(model, ids)
    with Session(model, Dense()) as session:
        with pytest.raises(ValueError, match="whole prompt at once"):
            session.prefill(ids, chunk=20)
        assert (session.prefill(ids[:, :-2]) - expected[:, -3]).abs().max() < TOLERANCE
        assert (session.decode(ids[:, -2:-1]) - expected[:, -2]).abs().max() < TOLERANCE
        with pytest.raises(ValueError, match="one token at a time"):
            session.decode(ids[:, :2])


# ------------------------------------------------------------------------------------------- latents, sharing


@dataclass
class Latents(State):
    c: Buf
    r: Buf


@dataclass(frozen=True)
class LatentCache(Method):
    """Holds MLA's latents and the shared rotated key, and lets the model expand all of them at every call."""

    def init_state(self, layer: Layer, batch: int) -> Latents:
        m = layer.module
        return Latents(*(Buf.empty(batch, 1, 0, n, exact=True) for n in (m.kv_lora_rank, m.qk_rope_head_dim)))

    def latent(self, a: Tensor, b: Tensor, state: Any, layer: Layer) -> tuple[Tensor, Tensor]:
        state.c.append(a)
        state.r.append(b)
        return state.c.view(), state.r.view()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        n, T = k.shape[2], q.shape[2]
        seen = torch.arange(n)[None] <= torch.arange(n - T, n)[:, None]
        return (q @ k.transpose(2, 3) * layer.scale).masked_fill(~seen, float("-inf")).softmax(-1) @ v

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return Footprint.of(batch * (prompt + new) * 4 * (32 + 16))


def test_a_latent_hook_serves_mla() -> None:
    model, ids = tiny("deepseek_v3", **MLA), tokens()
    expected = own(model, ids)[:, PROMPT - 1 :]
    with Session(model, LatentCache()) as session:
        assert (logits_by(session, ids, 17) - expected).abs().max() < TOLERANCE
        layer = session.layers[0]
        assert (layer.hq, layer.hkv, layer.d, layer.dv) == (4, 4, 48, 24)
        assert session.state_bytes().payload == 4 * 2 * TOTAL * 4 * (32 + 16)
        assert session.state_bytes() == session.footprint().held
        rope, x = layer.rope, torch.randn(1, 4, 5, 48)
        assert rope is not None
        positions = torch.arange(5)[None] + 3
        assert torch.equal(rope.apply(x, positions)[..., :32], x[..., :32])
        assert torch.allclose(rope.invert(rope.apply(x, positions), positions), x, atol=1e-5)
        turned = rope.rotate(x, positions[..., None] * rope.frequencies)
        assert torch.allclose(turned, rope.apply(x, positions), atol=1e-5)


GEMMA3N: dict[str, Any] = {
    "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "laurel_rank": 8,
    "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [96] * 4, "sliding_window": 24,
}  # fmt: skip


def test_layers_that_share_keys_share_a_state(plain_windows: None) -> None:
    model, ids = tiny("gemma3n_text", layer_types=["full_attention"] * 4, **GEMMA3N), tokens()
    expected = own(model, ids)[:, PROMPT - 1 :]
    for method in (Plain(), Dense()):
        with Session(model, method) as session:
            assert (logits_by(session, ids, 17) - expected).abs().max() < TOLERANCE
            assert [layer.source for layer in session.layers] == [None, None, 1, 1]
            assert session.states[2] is session.states[3] is session.states[1]
            assert session.state_bytes() == session.footprint().held
            child = session.fork()
            assert child.states[2] is child.states[1]
            assert child.states[1] is not session.states[1]


def test_a_state_that_cannot_be_shared_is_refused() -> None:
    model = tiny("gemma3n_text", layer_types=["sliding_attention", "full_attention"] * 2, **GEMMA3N)
    with pytest.raises(UnsupportedModel, match=r"layer 2 .* reads the keys and values of layer 0"):
        Session(model, Dense()).__enter__()


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("bloom", {}, "in its own code"),
        ("mpt", {}, "in its own code"),
        ("falcon", {"head_dim": None}, "in its own code"),
        ("gptj", {"rotary_dim": 8}, "in its own code"),
        ("deepseek_v3", MLA, "caches latents"),
        ("llama4_text", {"num_local_experts": 2, "attention_chunk_size": 16}, "in chunks"),
    ],
)
def test_architectures_that_cannot_be_served_say_why(kind: str, changes: dict[str, Any], reason: str) -> None:
    model = tiny(kind, **changes)
    implementation = model.config._attn_implementation
    with pytest.raises(UnsupportedModel, match=reason):
        Session(model, Kivi(group=8)).__enter__()
    assert model.config._attn_implementation == implementation
    assert NAME not in AttentionInterface._global_mapping


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=97, d_model=32, d_ff=32, num_layers=2, num_heads=2)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        Session(transformers.T5ForConditionalGeneration(config), Dense()).__enter__()


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no language-model head"):
        Session(tiny("llama").model, Dense()).__enter__()


def test_what_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="not a transformers model"):
        Session(torch.nn.Linear(2, 2), Dense()).__enter__()


def test_two_attention_calls_a_layer_are_refused() -> None:
    model = tiny("diffllama")
    with Session(model, Dense()) as session, pytest.raises(UnsupportedModel, match="8 times for its 4"):
        session.prefill(tokens())


def test_attention_dropout_is_refused_while_training() -> None:
    model = tiny("llama", attention_dropout=0.1).train()
    with Session(model, Dense()) as session, pytest.raises(UnsupportedModel, match="attention_dropout"):
        session.prefill(tokens())


def test_what_the_first_forward_shows_otherwise_is_refused() -> None:
    """Facts read from the configuration are compared with what the model does."""
    for changes, reason in (
        ({"windows": {7, 24}}, r"configured with windows \[7, 24\]"),
        ({"mask_windows": {7}}, "pattern of its own"),
        ({"layers": [replace(FULL, window=7, module=torch.nn.Identity())] * 4}, "window of 24; its cache says 7"),
        ({"layers": [replace(FULL, hkv=4, module=torch.nn.Identity())] * 4}, r"was read as \(Hq, Hkv"),
    ):
        model = tiny("mistral")
        bridge = Bridge.install(model)
        try:
            with Session(model, Dense()) as session:
                vars(bridge).update(changes)
                with pytest.raises(UnsupportedModel, match=reason):
                    session.prefill(tokens())
        finally:
            bridge.remove()
