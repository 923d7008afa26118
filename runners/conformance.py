"""What every method must keep: one suite, run on a tiny random model through the session that users use.

A method declares properties (contract.Method). Where it declares one, the suite holds it to it; where it declares
that a property does not hold, the suite checks that it really fails, so that a flag hides no bug.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM

from kvfrontier.methods import Dense, Layer, Method, PerLayer, Step
from kvfrontier.methods.contract import Phase
from kvfrontier.methods.state import Buf, leaves
from kvfrontier.runners.peak import storage_bytes, track
from kvfrontier.runners.prefix.prefix import Prefix, Recorder
from kvfrontier.runners.session import Session

#: Lengths at which rounding, blocks and residuals show.
LENGTHS = (1, 2, 127, 128, 129, 1000)
#: Logits of the tiny model are about ten; float32 sums in another order differ by less than this.
TOLERANCE = 2e-4
PROMPT, NEW = 150, 40

Check = Callable[[Method], None]
CHECKS: dict[str, Check] = {}


def check(fn: Check) -> Check:
    """Add to the suite, under the function's name."""
    CHECKS[fn.__name__] = fn
    return fn


@dataclass(frozen=True)
class Result:
    """One check: its name, whether it holds, and what was found where it does not."""

    name: str
    holds: bool
    found: str = ""


def run(method: Method) -> Iterator[Result]:
    """All checks, one after the other."""
    for name, fn in CHECKS.items():
        try:
            fn(method)
        except AssertionError as error:
            yield Result(name, False, str(error))
        except Exception as error:  # noqa: BLE001  whatever somebody's method raises is what was found
            yield Result(name, False, f"{type(error).__name__}: {error}")
        else:
            yield Result(name, True)


@functools.cache
def tiny(dtype: torch.dtype = torch.float32, latents: bool = False) -> Any:
    """Two layers, four query heads on two key/value heads of 32, with weights large enough that attention is sharp.
    `latents`: a model that caches these instead, 32 + 16 elements a token, for four heads."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = _untrained(latents).requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model.to(dtype)


def _untrained(latents: bool) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    if not latents:
        return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, head_dim=32)).eval()
    config = DeepseekV3Config(
        **sizes, num_key_value_heads=4, kv_lora_rank=32, q_lora_rank=None, qk_rope_head_dim=16, qk_nope_head_dim=32,
        v_head_dim=24, first_k_dense_replace=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
    )  # fmt: skip
    return DeepseekV3ForCausalLM(config).eval()


def takes_latents(method: Method) -> bool:
    """It serves models that cache latents, and is run on one."""
    serving = method.methods if isinstance(method, PerLayer) else [method]
    return all(type(one).latent is not Method.latent for one in serving)


def model_for(method: Method, dtype: torch.dtype = torch.float32) -> Any:
    """The tiny model on which a method is run."""
    return tiny(dtype, takes_latents(method))


def layer_for(method: Method, dtype: torch.dtype = torch.float32) -> Layer:
    """A layer like those of the tiny model, for calls of `attend` by themselves; it rotates by nothing. Its weights are
    rounded to bfloat16, so that they are the same in every dtype."""
    latents = takes_latents(method)
    module = copy.deepcopy(tiny(torch.bfloat16, latents).model.layers[0].self_attn).to(dtype)
    layer = Layer(0, 1, 4, 2, 32, 32, 0.2, dtype=dtype, rope=_Unrotated(), module=module)
    if latents:
        layer = replace(layer, hkv=4, d=48, dv=24, latent=(32, 16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = method.module(layer)
    return layer if params is None else replace(layer, params=params)


def drawn(layer: Layer, n: int, generator: torch.Generator) -> list[Tensor]:
    """Random queries of n tokens, and what a cache is given of them: keys and values, or latents and shared keys."""
    shapes = [(layer.hkv, layer.d), (layer.hkv, layer.dv)] if layer.latent is None else [(1, d) for d in layer.latent]
    return [torch.randn(1, h, n, d, generator=generator) for h, d in ((layer.hq, layer.d), *shapes)]


def call(
    method: Method, state: Any, layer: Layer, start: int, given: Sequence[Tensor], phase: Phase = "prefill"
) -> Tensor:
    """One call of `attend` on `drawn` tensors, by themselves."""
    q, a, b = given
    k, v = a, b
    if layer.latent is not None:
        a, b = method.latent(a, b, state, layer)
        k_and_v = layer.module.kv_b_proj(a).unflatten(3, (layer.hq, -1)).squeeze(1).transpose(1, 2)
        k, v = k_and_v.split([layer.d - layer.latent[1], layer.dv], 3)
        k = torch.cat([k, b.expand(-1, layer.hq, -1, -1)], 3)
    step = Step(torch.arange(start, start + q.shape[2])[None], start, phase, unrotated=lambda: (q, k))
    return method.attend(q, k, v, state, layer, step)


def tokens(rows: int, n: int) -> Tensor:
    """Random token ids [rows, n], always the same."""
    return torch.randint(0, 97, (rows, n), generator=torch.Generator().manual_seed(n))


def outputs(
    method: Method, ids: Tensor, chunk: int | None = None, prompt: int = PROMPT, model: Any = None, **options: Any
) -> Tensor:
    """Logits [B, 1 + new, V]: after the prompt, and after each token that is then decoded one by one."""
    with torch.no_grad(), Session(model or model_for(method), method) as session:
        logits = [session.prefill(ids[:, :prompt], chunk=chunk, **options)]
        logits += [session.decode(ids[:, i : i + 1]) for i in range(prompt, ids.shape[1])]
    return torch.stack(logits, 1)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return (a.float() - b.float()).abs().max().item()


def _expect_close(a: Tensor, b: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    found = difference(a, b)
    assert found <= tolerance, f"{what}: logits differ by {found:.2e}, more than {tolerance:.0e}"


def _expect_bytes(session: Session, where: str) -> None:
    live, analytic = session.state_bytes(), session.footprint().held
    assert live == analytic, f"{where}: the state holds {live}, its footprint says {analytic}"


@check
def live_bytes_equal_analytic_bytes(method: Method) -> None:
    """Payload and slack, by tier, at awkward lengths, at the five points: mid-prefill, before and after seal, after
    one decoded token and after many."""
    for n, rows in itertools.product(LENGTHS, (1, 2)):
        ids = tokens(rows, n + NEW)
        with torch.no_grad(), Session(model_for(method), method) as session:
            for a, b in itertools.pairwise(sorted({0, n // 2, n})):
                session.prefill(ids[:, a:b], seal=False)
                _expect_bytes(session, f"{rows} x {b} of {n} prompt tokens, before seal")
            session.seal()
            _expect_bytes(session, f"{rows} x {n} prompt tokens, sealed")
            session.decode(ids[:, n : n + 1])
            _expect_bytes(session, f"{rows} x {n} prompt tokens and 1 decoded")
            session.decode(ids[:, n + 1 :])
            _expect_bytes(session, f"{rows} x {n} prompt tokens and {NEW} decoded")


@check
def a_decoded_token_reads_no_more_than_is_held(method: Method) -> None:
    """Bytes read are some of what is held, of one sequence, and do not depend on the batch."""
    layer = layer_for(method)
    for prompt, new in ((PROMPT, 1), (PROMPT, NEW), (1000, 1)):
        cost = method.footprint(layer, 1, prompt, new) + method.sequence_footprint(1, prompt, new)
        read, payload = cost.read, cost.held.payload
        assert 0 < read <= payload, f"{prompt} + {new} tokens: {read} bytes read a token, of {payload} that are held"
        both = method.footprint(layer, 2, prompt, new) + method.sequence_footprint(2, prompt, new)
        assert both.read == read, f"{read} bytes read for one sequence alone, and {both.read} for one of two"


@check
def bounded_state_stops_growing(method: Method) -> None:
    """Where declared, the state is as large after a million tokens as after some thousands; else it grows."""
    layer = layer_for(method)

    def held(prompt: int, new: int = 0) -> int:
        of_layer, of_sequence = method.footprint(layer, 1, prompt, new), method.sequence_footprint(1, prompt, new)
        return (of_layer + of_sequence).held.live

    if method.bounded:
        # A segment's fill varies: the largest of a stretch is what does not grow.
        early, late = (max(held(n + i) for i in range(0, 2048, 31)) for n in (8192, 10**6))
        assert late <= early, f"declared bounded, and grows from {early} to {late} bytes"
    else:
        assert held(4096, 4096) > held(4096), "declared growing, and does not grow while decoding"


@check
def chunks_do_not_matter(method: Method) -> None:
    """One shot, chunks of 37 and of 64, and token by token give the same logits."""
    ids = tokens(1, PROMPT + NEW)
    whole = outputs(method, ids)
    for chunk in (1, 37, 64):
        if method.chunk_invariant:
            _expect_close(outputs(method, ids, chunk), whole, f"chunks of {chunk}")
    if not method.chunk_invariant:
        assert difference(outputs(method, ids, 1), whole) > TOLERANCE, "declared to depend on chunks, and does not"


@check
def decoding_in_steps_equals_decoding_one_by_one(method: Method) -> None:
    """Several tokens in one decode call: the forced pass of perplexity relies on it."""
    if not method.chunk_invariant:
        return
    ids = tokens(1, PROMPT + NEW)
    one_by_one = outputs(method, ids)
    with torch.no_grad(), Session(model_for(method), method) as session:
        session.prefill(ids[:, :PROMPT])
        for i in range(PROMPT, PROMPT + NEW, 13):
            piece = ids[:, i : min(i + 13, PROMPT + NEW)]
            logits = session.decode(piece)
            _expect_close(logits, one_by_one[:, i - PROMPT + piece.shape[1]], f"a step of {piece.shape[1]} tokens")


@check
def decode_equals_prefill(method: Method) -> None:
    """Decoding tokens one by one gives what a prefill of the same tokens gives."""
    ids = tokens(1, PROMPT + NEW)
    decoded, prefilled = outputs(method, ids)[:, -1], outputs(method, ids, prompt=PROMPT + NEW)[:, -1]
    if method.decode_equals_prefill:
        _expect_close(decoded, prefilled, "decode against prefill")
    else:
        assert difference(decoded, prefilled) > TOLERANCE, "declared unequal, and decode equals prefill"


@check
def a_dense_prefix_serves_as_a_prefill(method: Method) -> None:
    """Where declared (`adopts`): what dense attention made of the prompt, adopted, is what a prefill leaves."""
    if method.adopts is None:
        return
    ids = tokens(1, PROMPT + NEW)
    prompt = ids[:, :PROMPT]
    with torch.no_grad(), Session(tiny(), method) as session, Recorder(tiny(), Dense()) as dense:
        expected, held = session.prefill(prompt), session.state_bytes()
        expected = [expected, *session.forced(ids[:, PROMPT:], step=1)]
        prefix = Prefix([dense.read(prompt[:, :100]), dense.read(prompt[:, 100:])], session.layers)
        session.reset()
        adopted = session.adopt(prefix.keys_values, prefix.logits, queries=prefix.queries)
        assert session.state_bytes() == held, f"a prefill leaves {held}, adopting {session.state_bytes()}"
        for a, b in zip([adopted, *session.forced(ids[:, PROMPT:], step=1)], expected, strict=True):
            _expect_close(a, b, "after adopting the prompt")


@check
def gradients_reach_queries_keys_and_values(method: Method) -> None:
    """Through the state: the loss reads only what comes after seal. Where it is declared that they do not, sealing
    under a gradient must refuse rather than cut it in silence."""
    layer = layer_for(method)
    g = torch.Generator().manual_seed(0)
    first, then = ([x.requires_grad_() for x in drawn(layer, n, g)] for n in (300, 20))

    def forward() -> Tensor:
        state = method.init_state(layer, 1)
        out = []
        for start, given in ((0, first), (300, then)):
            out.append(call(method, state, layer, start, given))
            if start == 0:
                method.seal(state, layer)
        # A recomputing method keeps nothing between calls: its gradient comes from the call itself.
        return out[1] if state is not None else torch.cat(out, 2)

    if not method.differentiable:
        refusal = ""
        try:
            forward()
        except ValueError as error:
            refusal = str(error)
        assert "gradient" in refusal, f"declared not differentiable; sealing under a gradient says {refusal!r}"
        return
    forward().square().sum().backward()
    for name, tensor in zip(("q", "k", "v", "the prompt's k", "the prompt's v"), (*then, *first[1:]), strict=True):
        grad = tensor.grad
        assert grad is not None, f"no gradient reaches {name}"
        assert grad.isfinite().all(), f"the gradient of {name} is not finite"
        assert grad.abs().max() > 0, f"the gradient of {name} is zero"


class _Unrotated:
    """A rotation by nothing, for a layer without a model."""

    trained = 4096
    frequencies = 1e4 ** -(torch.arange(16) / 16)

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    invert = apply

    def rotate(self, x: Tensor, angles: Tensor, factor: float = 1.0) -> Tensor:
        return x * factor


@check
def lossless_settings_equal_dense(method: Method) -> None:
    """With settings under which nothing is lost, it is dense attention."""
    lossless = method.lossless(PROMPT + NEW)
    if lossless is None:
        return
    ids = tokens(2, PROMPT + NEW)
    dense = outputs(Dense(), ids, model=model_for(method))
    for chunk in (None, 37):
        _expect_close(outputs(lossless, ids, chunk), dense, f"{lossless} against dense, chunk {chunk}")


@check
def a_fork_does_not_disturb_its_parent(method: Method) -> None:
    """A child decodes other tokens; the parent goes on as if it were alone."""
    ids = tokens(1, PROMPT + NEW)
    expected = outputs(method, ids)
    with torch.no_grad(), Session(model_for(method), method) as parent:
        parent.prefill(ids[:, :PROMPT])
        child = parent.fork()
        for i in range(PROMPT, PROMPT + NEW):
            child.decode(97 - 1 - ids[:, i : i + 1])
            _expect_close(parent.decode(ids[:, i : i + 1]), expected[:, i - PROMPT + 1], "a parent beside its fork")
        twin = parent.fork()
        _expect_close(twin.decode(ids[:, :1]), parent.decode(ids[:, :1]), "a fork and its parent on the same token")
        _expect_bytes(child, "a fork")
        _expect_bytes(parent, "a forked parent")


@check
def a_batch_equals_its_rows(method: Method) -> None:
    """Two rows together give what each gives alone."""
    ids = tokens(2, PROMPT + NEW)
    both = outputs(method, ids, 64)
    for row in range(2):
        _expect_close(both[row : row + 1], outputs(method, ids[row : row + 1], 64), f"row {row} of a batch")


@check
def padded_rows_equal_each_row_alone(method: Method) -> None:
    """A left-padded row gives what it gives without its padding."""
    ids, pads = tokens(2, PROMPT + NEW), (0, 29)
    mask = torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, : pads[1]] = 0
    # A method to which chunks matter gets the padding's row and the row alone in one call each.
    both = outputs(method, ids, 64 if method.chunk_invariant else None, attention_mask=mask)
    for row, pad in enumerate(pads):
        alone = outputs(method, ids[row : row + 1, pad:], None, PROMPT - pad)
        _expect_close(both[row : row + 1], alone, f"row {row} behind {pad} pads")


@check
def a_snapshot_restores(method: Method) -> None:
    """Saved to a file and read back, the state decodes bit by bit the same."""
    ids = tokens(1, PROMPT + NEW)
    with torch.no_grad(), Session(model_for(method), method) as session:
        session.prefill(ids[:, :PROMPT])
        file = io.BytesIO()
        torch.save(session.snapshot(), file)
        expected = session.decode(ids[:, PROMPT:])
        file.seek(0)
        session.restore(torch.load(file, weights_only=True))
        assert torch.equal(session.decode(ids[:, PROMPT:]), expected), "a restored session decodes otherwise"
        _expect_bytes(session, "a restored session")


@check
def it_runs_in_bfloat16(method: Method) -> None:
    """Sizes hold, the output has the input's type, and is as near to float32 as eight bits allow."""
    ids = tokens(1, PROMPT + 3)
    with torch.no_grad(), Session(model_for(method, torch.bfloat16), method) as session:
        logits = session.prefill(ids[:, :PROMPT], chunk=64)
        _expect_bytes(session, "in bfloat16")
        logits = session.decode(ids[:, PROMPT:])
        _expect_bytes(session, "in bfloat16, decoding")
        assert logits.isfinite().all(), "logits in bfloat16 are not finite"
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = layer_for(method, dtype)
        given = [t.to(torch.bfloat16).to(dtype) for t in drawn(layer, 60, torch.Generator().manual_seed(3))]
        found.append(call(method, method.init_state(layer, 1), layer, 0, given))
        assert found[-1].dtype == dtype, f"the output is {found[-1].dtype} for {dtype}"
    # bfloat16 keeps 8 bits.
    _expect_close(
        found[1], found[0], "bfloat16 against float32 on the same numbers", 2**-6 * found[0].abs().max().item()
    )


@check
def it_runs_on_fake_tensors(method: Method) -> None:
    """The planner runs the method's own code without memory: sizes must not depend on values."""
    with FakeTensorMode(), torch.no_grad():
        model = _untrained(takes_latents(method))
        ids = torch.zeros(2, PROMPT + NEW, dtype=torch.long)
        with Session(model, method) as session:
            session.prefill(ids[:, :PROMPT], chunk=64)
            _expect_bytes(session, "on fake tensors")
            session.decode(ids[:, PROMPT : PROMPT + 1])
            session.decode(ids[:, PROMPT + 1 :])
            _expect_bytes(session, "on fake tensors, decoding")


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Let collections pass over what is there already: it takes most of their time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@check
def it_holds_nothing_outside_its_state(method: Method) -> None:
    """Between calls no tensor lives but the model's weights, the method's learnable parts, its state and the last
    logits: counted on fake tensors, of which the bridge keeps none of its own."""
    with _only_new_garbage(), FakeTensorMode(), torch.no_grad():
        model = _untrained(takes_latents(method))
        weights = [*model.parameters(), *model.buffers()]
        ids = torch.zeros(2, PROMPT + NEW, dtype=torch.long)
        with track("cpu", external=weights) as memory, Session(model, method) as session:
            memory.tell_apart(lambda: session.state, model.get_output_embeddings())
            learnable = [w for layer in session.layers if layer.params is not None for w in layer.params.parameters()]
            session.prefill(ids[:, :PROMPT], chunk=64)
            for i in range(PROMPT, PROMPT + 2):
                session.decode(ids[:, i : i + 1])
            gc.collect()
            hidden = memory.current_parts.activations - storage_bytes(learnable)
    assert hidden == 0, f"{hidden} bytes live outside the state after {PROMPT} tokens and 2 decoded ones"


@check
def it_stays_finite_at_extreme_values(method: Method) -> None:
    """Values of zero, of 1e-30 and of a million give finite outputs."""
    layer = layer_for(method)
    for size in (0.0, 1e-30, 1e4, 1e6):
        state, start = method.init_state(layer, 1), 0
        calls: list[tuple[int, Phase]] = [(300, "prefill"), (1, "decode"), (40, "decode")]
        for n, phase in calls:
            g = torch.Generator().manual_seed(n)
            out = call(method, state, layer, start, [x * size for x in drawn(layer, n, g)], phase)
            assert out.isfinite().all(), f"the output is not finite for values of {size:g} ({phase})"
            if start == 0:
                method.seal(state, layer)
            start += n


@check
def sealing_twice_changes_nothing(method: Method) -> None:
    """`seal` is idempotent."""
    ids = tokens(1, PROMPT + 1)
    expected = outputs(method, ids)
    with torch.no_grad(), Session(model_for(method), method) as session:
        session.prefill(ids[:, :PROMPT], seal=False)
        session.seal()
        before = session.state_bytes()
        session.seal()
        assert session.state_bytes() == before, "a second seal changes the state's size"
        _expect_close(session.decode(ids[:, PROMPT:]), expected[:, -1], "after a second seal")


class _OtherQueries:
    """While it is `on`, the model's last layer reads token ids by other queries. Nothing depends on these but what a
    method makes of them, and what comes after the last layer."""

    def __init__(self, model: Any) -> None:
        self.on = self._ids = False
        projection = model.model.layers[-1].self_attn.q_proj
        self._hooks = [
            model.get_input_embeddings().register_forward_hook(self._embedded),
            projection.register_forward_hook(self._projected),
        ]

    def _embedded(self, *_: Any) -> None:
        self._ids = True

    def _projected(self, module: Any, args: Any, q: Tensor) -> Tensor:
        ids, self._ids = self._ids, False
        return -20 * q.flip(-1) if self.on and ids else q

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _held(method: Method, other: bool) -> list[Tensor]:
    """What some prompts leave, sealed; with `other`, queries of their second half are others."""
    ids, model = tokens(2, PROMPT), model_for(method)
    queries = _OtherQueries(model)
    try:
        with torch.no_grad(), Session(model, method) as session:
            session.prefill(ids[:, : PROMPT // 2], seal=False)
            queries.on = other
            session.prefill(ids[:, PROMPT // 2 :], seal=False)
            queries.on = False
            session.seal()
            return [(x.view() if isinstance(x, Buf) else x).clone() for _, x, _ in leaves(session.state)]
    finally:
        queries.remove()


@check
def what_is_held_depends_on_queries_just_where_it_is_declared(method: Method) -> None:
    """Of two prompts that differ in queries alone, not in keys and values, the same is held after seal, or not."""
    a, b = (_held(method, other) for other in (False, True))
    same = len(a) == len(b) and all(map(torch.equal, a, b))
    if method.query_sensitive:
        assert not same, "declared to depend on queries, and holds the same whatever they are"
    else:
        assert same, "declared not to depend on queries, and holds something else where they are others"


@check
def hyper_parameters_are_all_it_holds(method: Method) -> None:
    """A method is frozen; what it learns or remembers is elsewhere."""
    made: Any = type(method)
    assert dataclasses.is_dataclass(method) and made.__dataclass_params__.frozen, "not a frozen dataclass"
    assert hash(method) == hash(dataclasses.replace(method)), "equal hyper-parameters must be equal methods"
    hidden = set(vars(method)) - {f.name for f in dataclasses.fields(method)}
    assert not hidden, f"it carries {sorted(hidden)} beside its hyper-parameters"
