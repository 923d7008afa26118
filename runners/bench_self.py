"""The benchmark of the benchmark: our caches beside transformers' own, dense and quantized, and what bounded state is
worth.

Everything is measured side by side in one run, on random weights of the embedded model's shape. Timings are
interleaved, one of ours and one of theirs, and given as ratios: a machine's drift falls on both.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM, QuantizedCache

from kvfrontier import methods
from kvfrontier.runners import environment, flat, models
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.meter import measure_memory, quartiles, synchronize
from kvfrontier.runners.record import Environment
from kvfrontier.runners.session import Session

#: Of SmolLM2-135M, whose shape the random weights have.
KV_HEADS, HEAD_DIM = 3, 64


class Row(BaseModel):
    """One comparison: `value` is ours over theirs, with the quartiles of its pairs; `goal` what it must not exceed."""

    claim: str
    value: float
    q1: float | None = None
    q3: float | None = None
    n: int = 1
    goal: float
    absolute: str = ""

    @property
    def holds(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal


class Benchmark(BaseModel):
    """All rows of one run, what could not be measured, and where it ran."""

    environment: Environment
    context: int
    threads: int
    rows: list[Row]
    left_out: list[str] = []


#: Parts of bench_self_peers.py, by the names of their functions.
FURTHER = ("static", "sliding", "far", "steps", "growth", "roofline", "patterns", "harness", "allocation")
#: Of bench_tasks.py.
OF_TASKS = ("overhead", "samples")
#: What can be measured alone.
PARTS = ("decode", "prefill", "peaks", "flat", "long", "quantized", *FURTHER, *OF_TASKS)


def run(
    context: int, pairs: int, device: str, say: Callable[[str], None], layers: int = 30, only: Collection[str] = PARTS,
    decoded: int = 1 << 18,
) -> Benchmark:  # fmt: skip
    """Measure everything at `context` tokens, or the PARTS that `only` names, with at least 7 `pairs` of timings, and
    what is held over `decoded` tokens; `layers` other than the model's 30 are for trying it out."""
    if pairs < 7:
        raise UsageError(f"{pairs} pairs are too few for quartiles that mean something; give at least 7")
    if unknown := sorted(set(only) - set(PARTS)):
        raise UsageError(f"bench-self has no part {unknown[0]!r}; choose of {', '.join(PARTS)}")
    model = _model(context, device, layers)
    rows, left_out = [], []
    with torch.no_grad():
        if "decode" in only:
            rows.append(_decode(model, context, pairs, say))
            if device == "cpu" and torch.get_num_threads() > 1:
                with _one_thread():
                    rows.append(_decode(model, context, pairs, say))
        if "prefill" in only:
            rows.append(_prefill(model, context, pairs, say))
        if "peaks" in only:
            rows += _peaks(model, context, say)
        if "flat" in only:
            rows += _flat(model, context, say)
        if "long" in only and sys.platform == "linux":
            rows += _long(decoded, device, say)
        elif "long" in only:
            left_out.append("resident memory over a long text: it is read from Linux's /proc")
        if "quantized" in only and importlib.util.find_spec("hqq"):
            rows += [_quantized(model, bits, context, pairs, say) for bits in (8, 4, 2)]
        elif "quantized" in only:
            left_out.append("int8, int4 and int2 against QuantizedCache: hqq is not installed (kvfrontier[peers])")
        from kvfrontier.runners import bench_self_peers

        for part in FURTHER:
            if part in only:
                rows += getattr(bench_self_peers, part)(model, context, pairs, say)
        from kvfrontier.runners import bench_tasks

        for part in OF_TASKS:
            if part in only:
                rows += getattr(bench_tasks, part)(pairs, say)
    return Benchmark(
        environment=environment.describe(device), context=context, threads=torch.get_num_threads(), rows=rows,
        left_out=left_out,
    )  # fmt: skip


def _model(context: int, device: str, layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's shape with random weights: speed and memory do not depend on them."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, head_dim=HEAD_DIM,
        num_attention_heads=9, num_key_value_heads=KV_HEADS, max_position_embeddings=4 * context + 1024,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False).to(device)  # pyright: ignore[reportArgumentType]
    model.set_attn_implementation("sdpa")
    return model


def _stock(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same weights under transformers' own attention."""
    with torch.device("meta"):
        stock = type(model)(copy.deepcopy(model.config))
    stock.load_state_dict(model.state_dict(), assign=True)
    stock.model.rotary_emb = model.model.rotary_emb
    stock.tie_weights()
    stock.set_attn_implementation("sdpa")
    return stock.eval().requires_grad_(False)


def _ids(model: LlamaForCausalLM, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, model.config.vocab_size, (1, n), generator=generator).to(model.device)


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    act()
    synchronize(device)
    return time.perf_counter() - start


def _ratio(claim: str, goal: float, ours: list[float], theirs: list[float]) -> Row:
    pairs = quartiles([a / b for a, b in zip(ours, theirs, strict=True)])
    absolute = f"{statistics.median(ours) * 1e3:.0f} ms against {statistics.median(theirs) * 1e3:.0f} ms"
    return Row(claim=claim, value=pairs.median, q1=pairs.q1, q3=pairs.q3, n=pairs.n, goal=goal, absolute=absolute)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _decode(model: LlamaForCausalLM, context: int, pairs: int, say: Callable[[str], None]) -> Row:
    threads = f", {torch.get_num_threads()} threads" if model.device.type == "cpu" else ""
    claim = f"decode at {context} tokens, dense against DynamicCache with sdpa{threads}"
    return _steps(claim, 0.85, model, methods.Dense(), DynamicCache(config=model.config), context, pairs, say)


def _by_token(bits: int) -> methods.Method:
    """As configs/method/int8.yaml and its like, in the peer's groups."""
    return methods.Quantized(bits, group=HEAD_DIM, residual=128, key_axis="token")


def _quantized(model: LlamaForCausalLM, bits: int, context: int, pairs: int, say: Callable[[str], None]) -> Row:
    """Both per token in groups of 64, the newest 128 tokens in full."""
    cache = QuantizedCache(
        "hqq", model.config, nbits=bits, axis_key=1, axis_value=1, q_group_size=HEAD_DIM, residual_length=128
    )
    claim = f"decode at {context} tokens, int{bits} against QuantizedCache with hqq at {bits} bits"
    return _steps(claim, 1.0, model, _by_token(bits), cache, context, pairs, say)


def _steps(
    claim: str, goal: float, model: LlamaForCausalLM, method: methods.Method, cache: Cache, context: int, pairs: int,
    say: Callable[[str], None],
) -> Row:  # fmt: skip
    """One token after `context`, each side with its own cache of the same text."""
    token, layers = _ids(model, 1), model.config.num_hidden_layers
    shape = (1, KV_HEADS, context, HEAD_DIM)
    prefix = [(torch.randn(shape, device=model.device), torch.randn(shape, device=model.device)) for _ in range(layers)]
    theirs_model = _stock(model)
    for index, (k, v) in enumerate(prefix):
        cache.update(k, v, index)
    ours, theirs = [], []
    with Session(model, method) as session:
        session.adopt(prefix, torch.zeros(1, model.config.vocab_size, device=model.device))
        del prefix
        for pair in range(pairs * 5 + 2):
            say(f"{claim}: {pair + 1}/{pairs * 5 + 2}")
            mine = _seconds(lambda: session.decode(token), model.device)
            other = _seconds(lambda: theirs_model(token, past_key_values=cache), model.device)
            if pair >= 2:
                ours.append(mine)
                theirs.append(other)
    return _ratio(claim, goal, ours, theirs)


def _prefill(model: LlamaForCausalLM, context: int, pairs: int, say: Callable[[str], None]) -> Row:
    ids = _ids(model, context)
    ours, theirs = [], []
    for pair in range(pairs + 1):
        say(f"prefill {pair + 1}/{pairs + 1}")
        with Session(model, methods.Dense()) as session:
            mine = _seconds(lambda: session.prefill(ids), model.device)
        stock, cache = _stock(model), DynamicCache(config=model.config)
        other = _seconds(functools.partial(stock, ids, past_key_values=cache, logits_to_keep=1), model.device)
        if pair:
            ours.append(mine)
            theirs.append(other)
    return _ratio(f"prefill of {context} tokens in one shot, dense against DynamicCache with sdpa", 1.02, ours, theirs)


def _peaks(model: LlamaForCausalLM, context: int, say: Callable[[str], None]) -> list[Row]:
    """Prefill peaks without weights: of chunks against one shot."""
    ids, token = _ids(model, context), _ids(model, 1)

    def peak(method: methods.Method, chunk: int | None) -> tuple[int, int]:
        say(f"peak of {type(method).__name__}, chunk {chunk}")
        block = measure_memory(lambda: Session(model, method), ids, token, chunk=chunk, weights=model)
        if block.status != "ok" or block.prefill_peak is None or block.weights is None or block.sealed_payload is None:
            raise RuntimeError(f"the memory pass says {block.status}: {block.reason}")
        return block.prefill_peak - block.weights, block.sealed_payload

    whole, state = peak(methods.Dense(), None)
    chunked, chunked_state = peak(methods.Dense(), 512)
    rows = [_share(f"dense: prefill peak of {context} tokens less weights and state, chunks of 512 against one shot",
                   0.25, chunked - chunked_state, whole - state)]  # fmt: skip
    for name, method in (("window", methods.Window(256)), ("sinks", methods.Sinks(252, 4))):
        bounded, _ = peak(method, 512)
        rows.append(_share(f"{name}: whole prefill peak less weights, chunks of 512 against dense in one shot",
                           0.5, bounded, whole))  # fmt: skip
    return rows


def _flat(model: LlamaForCausalLM, context: int, say: Callable[[str], None]) -> list[Row]:
    """Live bytes of bounded methods from a quarter of the context to four times of it."""
    ids = _ids(model, 4 * context)
    rows = []
    for name, method in (("window", methods.Window(256)), ("sinks", methods.Sinks(252, 4))):
        sizes: list[int] = []
        with Session(model, method) as session:
            for i, piece in enumerate(ids.split(512, 1)):
                say(f"{name}: {512 * i} of {4 * context} tokens")
                session.prefill(piece, seal=False)
                if session.n_tokens >= context // 4:
                    sizes.append(session.state_bytes().live)
        claim = f"{name}: live bytes, largest against smallest from {context // 4} to {4 * context} tokens"
        rows.append(_share(claim, 1.0, max(sizes), min(sizes)))
    return rows


def _long(tokens: int, device: str, say: Callable[[str], None]) -> list[Row]:
    """What a bounded method holds while it decodes a long text, token by token, on one small layer: what is held does
    not depend on the model, and the time that it takes does."""
    tiny = models.load({"kind": "tiny", "layers": 1, "max_context": 2 * tokens, "device": device})
    with Session(tiny.model, methods.Sinks(252, 4)) as session:
        session.prefill(torch.zeros(1, 512, dtype=torch.long))
        found = flat.watch(session, tokens, say=lambda now: say(f"sinks: {now}"))
    of = f"largest against smallest over {tokens} decoded tokens, one small layer"
    return [
        _share(f"sinks: live bytes, {of}", 1.01, found.live[1], found.live[0]),
        _share(f"sinks: resident bytes of the process, {of}", 1.10, found.resident[1], found.resident[0]),
    ]


def _share(claim: str, goal: float, ours: int, theirs: int) -> Row:
    absolute = f"{ours / 2**20:.1f} MiB against {theirs / 2**20:.1f} MiB"
    return Row(claim=claim, value=ours / theirs, goal=goal, absolute=absolute)


def write(benchmark: Benchmark, folder: Path) -> list[Path]:
    """bench_self.json and bench_self.md in `folder`."""
    data, page = folder / "bench_self.json", folder / "bench_self.md"
    data.write_text(benchmark.model_dump_json(indent=1) + "\n")
    here = benchmark.environment
    lines = [
        "# Ours beside the library's",
        "",
        f"{here.device_name}, {benchmark.threads} threads, torch {here.torch}, transformers {here.transformers}.",
        "Random weights of SmolLM2-135M's shape, float32. Ratios of interleaved pairs in one run: median (quartiles).",
        "Memory is exact. Again: `kvfrontier bench-self`.",
        "",
        "| Claim | Ratio | Goal | Reached | Measured |",
        "|---|---|---|---|---|",
    ]
    for row in benchmark.rows:
        spread = "" if row.q1 is None else f" ({row.q1:.2f} to {row.q3:.2f}, n={row.n})"
        reached = "yes" if row.holds else "no"
        lines.append(f"| {row.claim} | {row.value:.3f}{spread} | {row.goal:.2f} | {reached} | {row.absolute} |")
    lines += ["", *(f"Left out: {reason}." for reason in benchmark.left_out)] if benchmark.left_out else []
    page.write_text("\n".join(lines) + "\n")
    return [data, page]
