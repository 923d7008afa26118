"""More rows of bench-self: further peers of transformers, ours against ours, how step time grows, how far a decode is
from what memory's bandwidth allows. Each function gives the rows of one part (bench_self.PARTS)."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    QuantizedCache,
    StaticCache,
)

from kvfrontier import methods
from kvfrontier.methods import Layer, Method, Step, registry
from kvfrontier.runners import bench_self, meter
from kvfrontier.runners.bench_self import HEAD_DIM, KV_HEADS, Row
from kvfrontier.runners.peak import storage_bytes
from kvfrontier.runners.session import Session

Say = Callable[[str], None]
#: Steps that are thrown away.
WARM = 2
WINDOW = 256


def kivi(bits: int, kernel: str = "eager") -> Method:
    """KIVI at its own settings."""
    return registry.build(registry.complete({"name": "kivi", "bits": bits, "kernel": kernel}))


def named(name: str) -> Method:
    """A method at its usual settings."""
    return registry.build(registry.complete({"name": name}))


# ---------------------------------------------------------------------------------------------- further peers


def static(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """Dense attention beside the cache that is allocated once, which attends to all that it could hold."""
    room = context + pairs * 5 + 8
    claim = f"decode at {context} tokens, dense against StaticCache of {room} tokens with sdpa"
    cache = StaticCache(config=model.config, max_cache_len=room)
    return [bench_self._steps(claim, 1.0, model, methods.Dense(), cache, context, pairs, say)]


def sliding(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """A model whose layers have windows of their own, beside the sliding layers of its own cache."""
    c = model.config
    config = MistralConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size, head_dim=HEAD_DIM,
        num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
        num_key_value_heads=KV_HEADS, max_position_embeddings=c.max_position_embeddings, sliding_window=WINDOW,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    windowed = MistralForCausalLM(config).eval().requires_grad_(False).to(model.device)  # pyright: ignore[reportArgumentType]
    windowed.set_attn_implementation("sdpa")
    cache = DynamicCache(config=config)
    ids, token = bench_self._ids(model, context), bench_self._ids(model, 1)
    theirs, ours, other = bench_self._stock(windowed), [], []  # pyright: ignore[reportArgumentType]
    for piece in ids.split(512, 1):
        theirs(piece, past_key_values=cache, logits_to_keep=1)
    claim = f"decode at {context} tokens in windows of {WINDOW}, ours against sliding layers"
    with Session(windowed, methods.Dense()) as session:
        session.prefill(ids, chunk=512)
        for pair in range(pairs * 5 + WARM):
            say(f"{claim}: {pair + 1}/{pairs * 5 + WARM}")
            mine = bench_self._seconds(lambda: session.decode(token), model.device)
            stock = bench_self._seconds(lambda: theirs(token, past_key_values=cache), model.device)
            if pair >= WARM:
                ours.append(mine)
                other.append(stock)
    return [bench_self._ratio(claim, 1.0, ours, other)]


def far(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """At four times the context: dense beside DynamicCache, packed caches beside QuantizedCache at the same bits."""
    n = 4 * context
    claim = f"decode at {n} tokens, dense against DynamicCache with sdpa"
    peer: Cache = DynamicCache(config=model.config)
    rows = [bench_self._steps(claim, 0.5, model, methods.Dense(), peer, n, pairs, say)]
    if importlib.util.find_spec("hqq"):
        for bits in (4, 2):
            claim = f"decode at {n} tokens, kivi{bits} against QuantizedCache with hqq at {bits} bits"
            peer = QuantizedCache(
                "hqq", model.config, nbits=bits, axis_key=0, axis_value=1, q_group_size=HEAD_DIM, residual_length=128
            )
            rows.append(bench_self._steps(claim, 1 / 8, model, kivi(bits), peer, n, pairs, say))
    return rows


# ---------------------------------------------------------------------------------------------- ours and ours


def steps(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """A whole step of packed caches and of Quest beside dense's."""
    rows = []
    for n, goal in ((context, 1.25), (4 * context, 2.0)):
        rows += [_beside(f"kivi{bits}", kivi(bits), goal, model, n, pairs, say) for bits in (4, 2)]
        if model.device.type == "cpu":
            rows += [
                _beside(f"kivi{bits} compiled", kivi(bits, "compile"), goal, model, n, pairs, say) for bits in (4, 2)
            ]
    n = 4 * context
    quest = registry.build(registry.complete({"name": "quest", "pages": n // 16 // 8}))
    rows.append(_beside("quest with an eighth of its pages", quest, 1.0, model, n, pairs, say))
    return rows


def _beside(name: str, method: Method, goal: float, model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> Row:
    """One token, by the method and by dense attention, interleaved."""
    claim = f"decode at {context} tokens, {name} against dense, a whole step"
    token, times = bench_self._ids(model, 1), ([], [])
    with ExitStack() as stack:
        sessions = [stack.enter_context(_filled(model, m, context)) for m in (method, methods.Dense())]
        for pair in range(pairs * 5 + WARM):
            say(f"{claim}: {pair + 1}/{pairs * 5 + WARM}")
            for session, found in zip(sessions, times, strict=True):
                took = bench_self._seconds(lambda s=session: s.decode(token), model.device)
                if pair >= WARM:
                    found.append(took)
    return bench_self._ratio(claim, goal, *times)


class _filled(Session):
    """A session that stands after `context` random tokens."""

    def __init__(self, model: LlamaForCausalLM, method: Method, context: int) -> None:
        super().__init__(model, method)
        self.context = context

    def __enter__(self) -> Session:
        super().__enter__()
        shape = (1, KV_HEADS, self.context, HEAD_DIM)
        device = self.model.device
        prefix = [
            (torch.randn(shape, device=device), torch.randn(shape, device=device))
            for _ in range(self.model.config.num_hidden_layers)
        ]
        self.adopt(prefix, torch.zeros(1, self.model.config.vocab_size, device=device))
        return self


# ---------------------------------------------------------------------------------------------- growth and floors


def growth(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """Slope of log step time over log context, from a quarter of the context to four times of it; and how flat bounded
    methods are: the slowest length against the fastest."""
    lengths = [context // 4, context, 4 * context]
    rows = []
    for name, method in (("dense", methods.Dense()), ("kivi4", kivi(4)), ("quest", named("quest"))):
        times = [_step_time(model, method, n, pairs, say, name) for n in lengths]
        rows.append(_plain(f"{name}: exponent of step time from {lengths[0]} to {lengths[-1]} tokens", 1.0,
                           slope(lengths, times), times))  # fmt: skip
    for name, method in (("window", methods.Window(WINDOW)), ("sinks", methods.Sinks(WINDOW - 4, 4))):
        times = [_step_time(model, method, n, pairs, say, name) for n in lengths]
        rows.append(_plain(f"{name}: slowest step against fastest from {lengths[0]} to {lengths[-1]} tokens", 1.05,
                           max(times) / min(times), times))  # fmt: skip
    return rows


def slope(lengths: list[int], times: list[float]) -> float:
    """Least squares, both in logarithms."""
    x, y = [math.log(n) for n in lengths], [math.log(t) for t in times]
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def roofline(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """A decoded token's time over its floor: weights and state read, over the bandwidth of this machine."""
    rate = meter.bandwidth(model.device).best
    weights = storage_bytes(chain(model.parameters(), model.buffers()))
    rows = []
    found = {"dense": methods.Dense(), "window": methods.Window(WINDOW), "kivi4": kivi(4), "kivi2": kivi(2),
             "quest": named("quest"), "paged": named("paged")}  # fmt: skip
    for name, method in found.items():
        with _opened(model, method, context) as session:
            floor = (weights + session.footprint().read) / rate
        took = _step_time(model, method, context, pairs, say, name)
        row = _plain(f"{name}: a step at {context} tokens over its floor", 2.0, took / floor, [took])
        rows.append(row.model_copy(update={"absolute": f"{took * 1e3:.1f} ms over {floor * 1e3:.1f} ms"}))
    return rows


def _opened(model: LlamaForCausalLM, method: Method, context: int) -> Session:
    """A session after `context` tokens: filled where the method takes a dense prefix, read where it does not."""
    return _filled(model, method, context) if method.adopts == "kv" else _read(model, method, context)


class _read(_filled):
    def __enter__(self) -> Session:
        Session.__enter__(self)
        self.prefill(bench_self._ids(self.model, self.context), chunk=512)
        return self


def _step_time(model: LlamaForCausalLM, method: Method, context: int, pairs: int, say: Say, name: str) -> float:
    """Median seconds of a decoded token."""
    token = bench_self._ids(model, 1)
    times = []
    with _opened(model, method, context) as session:
        for i in range(pairs * 3 + WARM):
            say(f"{name} at {context}: {i + 1}/{pairs * 3 + WARM}")
            times.append(bench_self._seconds(lambda: session.decode(token), model.device))
    return statistics.median(times[WARM:])


def _plain(claim: str, goal: float, value: float, times: list[float]) -> Row:
    return Row(claim=claim, value=value, goal=goal, absolute=", ".join(f"{t * 1e3:.1f} ms" for t in times))


# ---------------------------------------------------------------------------------------------- prefill of one layer


def patterns(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """One layer's prefill: recurrences beside dense attention at half the context and at four times of it, sparse
    patterns at four times."""
    rows = []
    near, n = max(64, context // 2), 4 * context
    for name in ("linear", "gla", "deltanet"):
        for length, goal in ((near, 1.5), (n, 1.0)):
            rows.append(_layer_prefill(name, goal, model, length, pairs, say))
    return rows + [_layer_prefill(name, 1.0, model, n, pairs, say) for name in ("vertical_slash", "moba", "longformer")]


def _layer_prefill(name: str, goal: float, model: LlamaForCausalLM, n: int, pairs: int, say: Say) -> Row:
    claim = f"prefill of {n} tokens, one layer, {name} against dense"
    q, k, v = (torch.randn(1, h, n, HEAD_DIM, device=model.device) for h in (3 * KV_HEADS, KV_HEADS, KV_HEADS))
    times: tuple[list[float], list[float]] = ([], [])
    with Session(model, methods.Dense()) as session:
        layer = session.layers[-1]
    for pair in range(pairs + 1):
        say(f"{claim}: {pair + 1}/{pairs + 1}")
        for method, found in zip((named(name), methods.Dense()), times, strict=True):
            took = bench_self._seconds(lambda m=method: _prefilled(m, layer, q, k, v), model.device)
            if pair:
                found.append(took)
    return bench_self._ratio(claim, goal, *times)


def _prefilled(method: Method, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    state, n = method.init_state(layer, 1), q.shape[2]
    step = Step(torch.arange(n, device=q.device)[None], 0, "prefill", unrotated=lambda: (q, k))
    out = method.attend(q, k, v, state, layer, step)
    method.seal(state, layer)
    return out


# ---------------------------------------------------------------------------------------------- the harness


def harness(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """A step that attends to next to nothing beside the model's own forward of one token without a cache."""
    token, stock, ours, theirs = bench_self._ids(model, 1), bench_self._stock(model), [], []
    claim = "a step of a session with a window of 16 tokens against the bare model on one token"
    with Session(model, methods.Window(16)) as session:
        session.prefill(bench_self._ids(model, 32))
        for pair in range(pairs * 5 + WARM):
            say(f"{claim}: {pair + 1}/{pairs * 5 + WARM}")
            mine = bench_self._seconds(lambda: session.decode(token), model.device)
            other = bench_self._seconds(lambda: stock(token, use_cache=False), model.device)
            if pair >= WARM:
                ours.append(mine)
                theirs.append(other)
    return [bench_self._ratio(claim, 1.1, ours, theirs)]


def allocation(model: LlamaForCausalLM, context: int, pairs: int, say: Say) -> list[Row]:
    """What a decoded token allocates beside the state, over the state."""
    ids, token = bench_self._ids(model, context), bench_self._ids(model, 1)
    rows = []
    for name, method in _allocating():
        say(f"what {name} allocates")
        found = meter.measure_memory(lambda m=method: Session(model, m), ids, token, chunk=512, weights=model)
        if found.decode_parts is None or not found.live_payload:
            raise RuntimeError(f"the memory pass of {name} says {found.status}: {found.reason}")
        claim = f"{name}: what a step allocates beside its state at {context} tokens, over the state"
        rows.append(bench_self._share(claim, 2.0, found.decode_parts.activations, found.live_payload))
    return rows


def _allocating() -> Iterator[tuple[str, Method]]:
    yield from (("dense", methods.Dense()), ("kivi4", kivi(4)), ("kivi2", kivi(2)), ("int8", bench_self._by_token(8)))
    yield from ((name, named(name)) for name in ("quest", "paged", "snapkv"))
