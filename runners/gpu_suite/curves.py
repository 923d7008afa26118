"""(b) One layer over the context: decoding by every backend and kernel, and the prefill of a chunk at its end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kvfrontier.methods import attend, kernels
from kvfrontier.methods.kernels import paged_decode, quantized_decode, split_decode, window_sinks
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.checks import Found, quantized
from kvfrontier.runners.gpu_suite.items import Item

#: Those that hold a T x S matrix, or float32 copies of the cache.
HUNGRY = ("eager", "sdpa_math")
#: Those that compile for many seconds: asked last, and at the first lengths.
COMPILED = ("flex", "flash_attn_4")
BITS = quantized_decode.BITS


def items(bench: Bench) -> Iterator[Item]:
    """First the lengths that the targets name."""
    s = bench.scale
    for context in s.contexts:
        rank = 20 if context in s.first else 50 if context <= 1 << 17 else 55
        for name in attend.BACKENDS:
            if name in HUNGRY and context > s.most_eager:
                continue
            if name in COMPILED and (context not in s.first or s.dry):
                continue
            late = 39 if name in COMPILED else 10 if name in HUNGRY else 0
            for what, act in (("decode", decode), ("prefill", prefill)):
                yield Item(
                    "curves", f"curves/{what}/{name}/{context}", functools.partial(act, name=name, context=context),
                    rank + late + (what == "prefill"), 1.5, 120.0,
                )  # fmt: skip
        for bits in BITS:
            yield Item(
                "curves", f"curves/decode/int{bits} kernel/{context}",
                functools.partial(decode_packed, bits=bits, context=context), rank, 1.5, 120.0,
            )  # fmt: skip
        for name, act in (("paged kernel", decode_paged), ("quest kernel, 1/8", decode_selected)):
            partial = functools.partial(act, context=context)
            yield Item("curves", f"curves/decode/{name}/{context}", partial, rank + 2, 1.5, 120.0)
        yield Item(
            "curves", f"curves/prefill/window {s.window} and 4 sinks, kernel/{context}",
            functools.partial(prefill_window, context=context), rank + 3, 1.5, 120.0,
        )  # fmt: skip


def _served(name: str, bench: Bench) -> Callable[..., Any]:
    if reason := attend.why_not(name, bench.device):
        raise ValueError(reason)
    return attend.function(name)


def _timed(bench: Bench, act: Callable[[], object], read: int, graph: bool = True) -> Found:
    """Seconds of a decoded token, launched and as a CUDA graph, and the share of the bandwidth with `read` bytes."""
    bench.forget_peak()
    found: Found = {"seconds": bench.seconds(act), "bytes_read": read, "peak": bench.most_allocated()}
    best = found["seconds"]["median"]
    if graph and bench.on_cuda:
        try:
            found["graph_seconds"] = bench.seconds(bench.graphed(act))
            best = min(best, found["graph_seconds"]["median"])
        except RuntimeError as error:
            found["graph_refused"] = str(error).strip().split("\n")[0][:200]
    found["mbu"] = read / best / bench.bandwidth
    return found


def decode(bench: Bench, name: str, context: int) -> Found:
    """One token against dense keys and values."""
    function = _served(name, bench)
    q, k, v = bench.layer(1, context)
    return _timed(
        bench, lambda: function(q, k, v, scale=q.shape[3] ** -0.5, causal=True, lse=False), bench.kv_bytes(context)
    )


def decode_packed(bench: Bench, bits: int, context: int) -> Found:
    """One token against packed keys (per channel) and values (per token)."""
    if reason := kernels.why_not("quantized_decode", bench.device):
        raise ValueError(reason)
    q, keys, values = quantized(bench, context, bits)
    held = [x for side in (keys, values) for x in (side.codes, side.scale, side.zero, side.full)]
    read = sum(x.nbytes for x in held if x is not None)
    return _timed(bench, lambda: quantized_decode.run(q, keys, values, scale=q.shape[3] ** -0.5), read)


def decode_paged(bench: Bench, context: int) -> Found:
    """One token against blocks of 16 in a random order."""
    if reason := kernels.why_not("paged_decode", bench.device):
        raise ValueError(reason)
    s, blocks = bench.scale, -(-context // 16)
    k, v = (bench.drawn(blocks, s.hkv, 16, s.d) for _ in range(2))
    table = torch.randperm(blocks, generator=torch.Generator().manual_seed(0))[None].to(bench.device)
    lengths = torch.full((1,), context, dtype=torch.int32, device=bench.device)
    q, heads = bench.drawn(1, s.hq, 1, s.d), torch.full_like(table, k.stride(1))
    given = (q, k, v, table * k.stride(0), table * v.stride(0), heads, heads, lengths)
    return _timed(
        bench,
        lambda: paged_decode.scattered(*given, block=16, heads=s.hkv, scale=s.d**-0.5),
        bench.kv_bytes(context),
    )


def decode_selected(bench: Bench, context: int) -> Found:
    """One token against an eighth of the pages of 16 tokens, chosen beforehand."""
    if reason := kernels.why_not("split_decode", bench.device):
        raise ValueError(reason)
    s, pages = bench.scale, max(8, context // 16)
    m = pages // 8
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(pages, generator=generator)[:m].sort().values for _ in range(s.hkv)]
    chosen = torch.stack(drawn)[None].to(bench.device)
    q, k, v = bench.layer(1, max(context, 128))
    return _timed(
        bench, lambda: split_decode.run(q, k, v, scale=s.d**-0.5, chosen=chosen, page=16), bench.kv_bytes(16 * m)
    )


def prefill(bench: Bench, name: str, context: int) -> Found:
    """The last `queries` tokens of a prompt."""
    function, T = _served(name, bench), min(context, bench.scale.queries)
    q, k, v = bench.layer(T, context)
    return _of_chunk(bench, lambda: function(q, k, v, scale=q.shape[3] ** -0.5, causal=True, lse=False), T, context)


def prefill_window(bench: Bench, context: int) -> Found:
    """The same under a window and four sinks, of which time must not grow with the context."""
    if reason := kernels.why_not("window_sinks", bench.device):
        raise ValueError(reason)
    T = min(context, bench.scale.queries)
    q, k, v = bench.layer(T, context)
    given = {"scale": q.shape[3] ** -0.5, "window": bench.scale.window, "sinks": 4}
    return _of_chunk(bench, lambda: window_sinks.run(q, k, v, **given), T, context, bench.scale.window + 4)


def _of_chunk(bench: Bench, act: Callable[[], object], T: int, context: int, most: int | None = None) -> Found:
    """Seconds, and operations a second: two products of what a query sees on the mean."""
    bench.forget_peak()
    times = bench.seconds(act, max(2, bench.scale.repetitions // 3))
    sees = context - (T - 1) / 2
    operations = 4 * T * min(sees, most or sees) * bench.scale.hq * bench.scale.d
    return {"seconds": times, "tokens": T, "flops": operations / times["median"], "peak": bench.most_allocated()}
