"""(a) Whether what runs is right: backends and kernels against eager in float32, every method in bfloat16, and the
allocator's peak against the predicted one."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods import attend, kernels, registry
from kvfrontier.methods.attend import eager
from kvfrontier.methods.kernels import (
    linear,
    paged_decode,
    quantized_decode,
    ragged_decode,
    split_decode,
    window_sinks,
)
from kvfrontier.methods.recurrent import decay, delta
from kvfrontier.methods.stores.uniform import Uniform
from kvfrontier.runners import compose
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.items import Item
from kvfrontier.runners.plan import agreement
from kvfrontier.runners.session import Session

#: Queries, keys, window: awkward lengths, one query, a chunk after a past, a window.
SHAPES = ((1, 1, None), (1, 777, None), (1, 777, 100), (77, 77, None), (130, 1003, None), (130, 1003, 200))
#: The largest error of a half-precision output of order one, and of a float32 one.
HALF, SINGLE = 2e-2, 2e-4

Found = dict[str, Any]


class Wrong(AssertionError):
    """What was computed is not what eager gives."""


def items(bench: Bench) -> Iterator[Item]:
    """Backends and kernels first; then every method; then peaks."""
    for name in attend.BACKENDS[1:]:
        if name == "flex" and bench.scale.dry:
            continue  # compiles for half a minute on a CPU
        limit = 240.0 if name in ("flex", "flash_attn_4") else 90.0  # these compile
        rank = 58 if name in ("flex", "flash_attn_4") else 10
        yield Item("checks", f"checks/backend/{name}", functools.partial(backend, name=name), rank, 3.0, limit)
    for name, check in KERNELS.items():
        yield Item("checks", f"checks/kernel/{name}", check, 10, 8.0, 240.0)
    methods = sorted(compose.choices("method"))
    for name in methods[:: 40 if bench.scale.dry else 1]:
        yield Item("checks", f"checks/method/{name}", functools.partial(method, name=name), 40, 1.0, 60.0)
    small = [cell for cell in agreement.cells() if cell[1].dtype == "bfloat16" and cell[1].batch == 2]
    for model, run in small[:1] if bench.scale.dry else small:
        name = f"checks/peak/{registry.label(run.method)} on {model}"
        act = functools.partial(peak, model=model, run=run)
        yield Item("checks", name, act, 45 if model != "tiny" else 60, 2.0, 60.0)


def compared(found: tuple[Tensor, Tensor | None], expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> float:
    """The largest error of output and log-sum-exp. Raises Wrong where it is too large."""
    bound, worst = SINGLE if dtype == torch.float32 else HALF, 0.0
    for x, y in zip(found, expected, strict=True):
        if x is None or not x.numel():
            continue
        if x.shape != y.shape:
            raise Wrong(f"shape {tuple(x.shape)} for {tuple(y.shape)}")
        worst = max(worst, (x.float() - y.float()).abs().max().item())
        if not worst <= bound:  # NaN too
            raise Wrong(f"largest error {worst:.2g}, over {bound:g}")
    return worst


def backend(bench: Bench, name: str) -> Found:
    """A backend on every shape that it serves, against eager on the same numbers in float32."""
    if reason := attend.why_not(name, bench.device):
        raise ValueError(reason)
    s, errors, refused = bench.scale, [], []
    function = attend.function(name)
    for T, S, window in SHAPES:
        q, k, v = (bench.drawn(2, h, n, s.d) for h, n in ((s.hq, T), (s.hkv, S), (s.hkv, S)))
        options = {"scale": s.d**-0.5, "causal": True, "window": window}
        for lse in (True, False):
            try:
                o, total = function(q, k, v, **options, lse=lse)
            except ValueError as error:
                refused.append(f"{T} of {S}, window {window}, lse {lse}: {error}")
                continue
            expected = eager.attend(q.float(), k.float(), v.float(), **options)
            errors.append(compared((o, total if lse else None), expected, bench.dtype))
    if not errors:
        raise ValueError(refused[0])
    return {"largest_error": max(errors), "shapes": len(errors), "refused": sorted(set(refused))}


def _kernel(name: str) -> Callable[[Callable[[Bench, Bench], Iterator[float]]], Callable[[Bench], Found]]:
    """A check of one kernel, refused where it cannot run."""

    def decorate(check: Callable[[Bench, Bench], Iterator[float]]) -> Callable[[Bench], Found]:
        def act(bench: Bench) -> Found:
            if reason := kernels.why_not(name, bench.device):
                raise ValueError(reason)
            errors = list(check(bench, bench))
            return {"largest_error": max(errors), "cases": len(errors)}

        return act

    return decorate


@_kernel("split_decode")
def _split(bench: Bench, _: Bench) -> Iterator[float]:
    s = bench.scale
    for S in (1, 63, 1000, 4097):
        q, k, v = bench.layer(1, S, 2)
        given: dict[str, Any] = {"scale": s.d**-0.5}
        yield _same(split_decode.run(q, k, v, **given), split_decode.eager, bench, q, k, v, **given)
        given["lengths"] = torch.tensor([S, S // 2 + 1], dtype=torch.int32, device=bench.device)
        yield _same(split_decode.run(q, k, v, **given), split_decode.eager, bench, q, k, v, **given)
    q, k, v = bench.layer(1, 1000, 2)
    for page, m in ((1, 100), (16, 7)):
        generator = torch.Generator().manual_seed(page)
        order = torch.stack([torch.randperm(-(-1000 // page), generator=generator)[:m].sort().values
                             for _ in range(2 * s.hkv)])  # fmt: skip
        given = {"scale": s.d**-0.5, "chosen": order.view(2, s.hkv, m).to(bench.device), "page": page}
        yield _same(split_decode.run(q, k, v, **given), split_decode.eager, bench, q, k, v, **given)


@_kernel("quantized_decode")
def _quantized(bench: Bench, _: Bench) -> Iterator[float]:
    # Each kind is tuned and compiled at its first use; all of them are in tests/methods/kernels.
    for bits, axis, symmetric in (*((bits, "channel", False) for bits in quantized_decode.BITS), (4, "token", True)):
        q, keys, values = quantized(bench, 1024, bits, axis, symmetric=symmetric)
        given = {"scale": bench.scale.d**-0.5}
        found = quantized_decode.run(q, keys, values, **given)
        yield _same(found, quantized_decode.eager, bench, q, keys, values, **given)


@_kernel("paged_decode")
def _paged(bench: Bench, _: Bench) -> Iterator[float]:
    s = bench.scale
    for block in (16, 64):
        k, v = bench.drawn(40, s.hkv, block, s.d), bench.drawn(40, s.hkv, block, s.d)
        table = torch.randperm(40, generator=torch.Generator().manual_seed(1)).view(2, 20).int().to(bench.device)
        lengths = torch.tensor([20 * block, 7 * block + 3], dtype=torch.int32, device=bench.device)
        given = {"scale": s.d**-0.5}
        q = bench.drawn(2, s.hq, 1, s.d)
        yield _same(paged_decode.run(q, k, v, table, lengths, **given), paged_decode.eager, bench, q, k, v, table,
                    lengths, **given)  # fmt: skip


@_kernel("ragged_decode")
def _ragged(bench: Bench, _: Bench) -> Iterator[float]:
    s = bench.scale
    lengths = torch.arange(1, 2 * s.hkv + 1).view(2, s.hkv) * 37 % 290 + 1
    lengths[1, 0] += lengths[0].sum() - lengths[1].sum() + 600
    lengths[0, -1] += 600
    q, k, v = bench.drawn(2, s.hq, 1, s.d), *(bench.drawn(2, int(lengths[0].sum()), s.d) for _ in range(2))
    given, lengths = {"scale": s.d**-0.5}, lengths.int().to(bench.device)
    yield _same(ragged_decode.run(q, k, v, lengths, **given), ragged_decode.eager, bench, q, k, v, lengths, **given)


@_kernel("window_sinks")
def _windowed(bench: Bench, _: Bench) -> Iterator[float]:
    for T, S, window, sinks in ((200, 200, None, 0), (77, 500, 100, 4), (300, 300, 33, 70), (5, 5, 3, 1)):
        q, k, v = bench.layer(T, S, 2)
        given: dict[str, Any] = {"scale": bench.scale.d**-0.5, "window": window, "sinks": sinks}
        yield _same(window_sinks.run(q, k, v, **given), window_sinks.eager, bench, q, k, v, **given)


@_kernel("linear")
def _linear(bench: Bench, _: Bench) -> Iterator[float]:
    s = bench.scale
    q = bench.drawn(1, s.hkv, s.hq // s.hkv, 500, s.d, dtype=torch.float32) * s.d**-0.5
    k, v = (bench.drawn(1, s.hkv, 500, s.d + i, dtype=torch.float32) for i in (0, 0))
    k = torch.nn.functional.normalize(k, dim=-1)
    S = torch.zeros(1, s.hkv, s.d, s.d, device=bench.device)
    by_token = -torch.rand(1, s.hkv, 500, 1, device=bench.device) / 16
    by_channel = -torch.rand(1, s.hkv, 500, s.d, device=bench.device) / 16
    for g in (None, by_token, by_channel):
        yield compared(linear.decayed(q, k, v, S, g, bench.dtype), decay.decayed(q, k, v, S, g), bench.dtype)
    beta = torch.full_like(by_token, 0.5)
    for g in (None, by_token):
        yield compared(
            linear.delta_rule(q, k, v, beta, S, g, bench.dtype), delta.delta_rule(q, k, v, beta, S, g), bench.dtype
        )


#: Names of kernels, and what each is asked.
KERNELS: dict[str, Callable[[Bench], Found]] = {
    "split_decode": _split, "quantized_decode": _quantized, "paged_decode": _paged, "ragged_decode": _ragged,
    "window_sinks": _windowed, "linear": _linear,
}  # fmt: skip


def _same(found: Any, oracle: Callable[..., Any], bench: Bench, *given: Any, **options: Any) -> float:
    """Against the oracle on the same numbers in float32."""
    wide = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
    return compared(found, oracle(*wide, **options), bench.dtype)


def quantized(
    bench: Bench, n: int, bits: int, axis: Any = "channel", batch: int = 1, symmetric: bool = False
) -> tuple[Tensor, quantized_decode.Side, quantized_decode.Side]:
    """A query, keys packed along `axis` and values by token, of n tokens, the newest 128 of the values in full and 32
    of the keys; groups of 32."""
    q, k, v = bench.layer(1, n, batch)
    sides = []
    told: list[tuple[Tensor, Any, int]] = [(k, axis, 32), (v, "token", 128)]
    for x, side_axis, residual in told:
        packed = max(0, n - residual) // 32 * 32
        codec = Uniform(bits, side_axis, 32, symmetric)
        codes, *scales = codec.encode(x[:, :, :packed], [])
        zero = None if symmetric else scales[1]
        sides.append(quantized_decode.Side(codes, scales[0], zero, x[:, :, packed:].contiguous(), bits, side_axis, 32))
    return q, sides[0], sides[1]


# ---------------------------------------------------------------------------------------------- methods


def method(bench: Bench, name: str) -> Found:
    """One method at its usual settings, on two layers of a small model: the state is what its closed form says, outputs
    are numbers, and settings under which it must equal dense attention make it so."""
    from kvfrontier.runners import conformance

    built = registry.build(registry.complete(compose.choice("method", name)))
    model, seed = conformance.model_for(built, bench.dtype), zlib.crc32(name.encode())
    model = _moved(model, bench)
    ids = conformance.tokens(1, 300).to(bench.device)

    def logits(chosen: Any) -> tuple[Tensor, Session]:
        torch.manual_seed(seed)
        with Session(model, chosen) as session:
            first = session.prefill(ids[:, :290], chunk=64)
            found = [first, *(session.decode(ids[:, i]) for i in range(290, 300))]
            held, told = session.state_bytes(), session.footprint().held
            if held != told:
                raise Wrong(f"the state holds {held}, and its footprint says {told}")
            return torch.stack(found, 1), session

    found, _ = logits(built)
    if not found.isfinite().all():
        raise Wrong("logits that are no numbers")
    values: Found = {"finite": True}
    lossless = built.lossless(300)
    if lossless is not None and not built.drives:
        expected, _ = logits(registry.build(registry.complete(compose.choice("method", "dense"))))
        exact, _ = logits(lossless)
        agreed = (exact.argmax(-1) == expected.argmax(-1)).float().mean().item()
        error = (exact - expected).abs().max().item() / expected.std().item()
        values |= {"lossless_error": error, "lossless_agreement": agreed}
        if not error < (1e-3 if bench.dtype == torch.float32 else 0.25):
            raise Wrong(f"settings that lose nothing differ from dense by {error:.2g} of its logits' deviation")
    return values


def _moved(model: Any, bench: Bench) -> Any:
    import copy

    return model if not bench.on_cuda else copy.deepcopy(model).to(bench.device)


def peak(bench: Bench, model: str, run: Any) -> Found:
    """Predicted on fake tensors, and what the allocator says."""
    row = agreement.compare(model, run, bench.scale.device)
    told = dict(zip(("state", "prefill", "decode"), row.pairs, strict=True))
    if not row.agrees:
        raise Wrong(f"predicted and measured bytes: {told}")
    return {"bytes": told, "workspace": row.workspace}
