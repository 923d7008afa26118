"""Synthetic records: a sweep as it might come back from the embedded model, and single records to change at will."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kvfrontier.analysis.stats import wilson
from kvfrontier.runners.record import (
    Cell,
    Environment,
    Memory,
    MethodInfo,
    Quality,
    QualityState,
    Quartiles,
    Record,
    Score,
    Time,
)

LAYERS, KV_HEADS, HEAD_DIM = 30, 3, 64
WEIGHTS = 538_090_000
PER_TOKEN16 = LAYERS * 2 * KV_HEADS * HEAD_DIM * 2

ENVIRONMENT = Environment(
    device_name="Intel Xeon 8370C",
    device_kind="cpu",
    threads=2,
    platform="Linux-6.1-x86_64",
    python="3.11.7",
    torch="2.13.0",
    transformers="5.23.0",
    kvfrontier="0.1.0",
    git_revision="0123abc",
)


@dataclass(frozen=True)
class Kind:
    """A made-up method. `held`: bytes at 16 bits for T tokens; `agreement`: at 512, and what each doubling costs;
    `milliseconds`: a token at no context, and what each token of context adds."""

    label: str
    family: str
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    held: Any
    agreement: tuple[float, float]
    milliseconds: tuple[float, float]
    fp32: bool = True
    needs_training: bool = False
    bounded: bool = False
    query_sensitive: bool = False
    paper: str = ""


def quantized(bits: int) -> Any:
    return lambda t: int(PER_TOKEN16 * (max(t - 128, 0) * (bits + 1) / 16 + min(t, 128)))


def kept(n: int) -> Any:
    return lambda t: PER_TOKEN16 * min(t, n)


KINDS = (
    Kind("dense", "baseline", {"name": "dense"}, ("growing", "internal", "exact"), kept(10**9), (1.0, 0.0),
         (38, 0.016)),
    Kind("recompute", "baseline", {"name": "recompute"}, ("growing", "external", "exact"), lambda t: 8 * t, (1.0, 0.0),
         (420, 1.9), fp32=False),
    Kind("window", "selection", {"name": "window", "window": 256}, ("fixed",), kept(256), (0.52, 0.03), (37, 0.0),
         bounded=True),
    Kind("sinks", "selection", {"name": "sinks", "window": 252, "sinks": 4}, ("fixed",), kept(256), (0.83, 0.02),
         (38, 0.0), bounded=True, paper="Xiao et al. 2023"),
    Kind("sinks_original", "selection", {"name": "sinks", "window": 252, "sinks": 4, "positions": "original"},
         ("fixed",), kept(256), (0.815, 0.02), (36, 0.0), bounded=True),
    Kind("snapkv", "selection", {"name": "snapkv", "budget": 256}, ("growing",), kept(256),
         (0.89, 0.035), (38, 0.002), query_sensitive=True),
    Kind("kivi8", "store", {"name": "kivi", "bits": 8}, ("growing",), quantized(8), (0.992, 0.001), (52, 0.05),
         fp32=False),
    Kind("kivi4", "store", {"name": "kivi", "bits": 4}, ("growing",), quantized(4), (0.953, 0.004), (50, 0.046),
         fp32=False),
    Kind("kivi2", "store", {"name": "kivi", "bits": 2}, ("growing",), quantized(2), (0.712, 0.01), (49, 0.042),
         fp32=False),
    Kind("moving_average", "memory", {"name": "moving_average"}, ("fixed",), kept(257), (0.54, 0.03), (39, 0.0),
         bounded=True),
    Kind("linear", "recurrent", {"name": "linear"}, ("fixed",), lambda t: LAYERS * KV_HEADS * (64 * 64 + 64) * 2,
         (0.012, 0.0), (33, 0.0), needs_training=True, bounded=True),
    Kind("infini", "memory", {"name": "infini", "segment": 256}, ("fixed",),
         lambda t: LAYERS * KV_HEADS * (64 * 64 + 64) * 2 + PER_TOKEN16 * 128, (0.31, 0.05), (41, 0.0),
         needs_training=True, bounded=True),
    Kind("window512", "selection", {"name": "window", "window": 512}, ("fixed",), kept(512), (0.61, 0.03), (38, 0.0),
         bounded=True),
)  # fmt: skip


def build(**changes: Any) -> Record:
    """One record of dense at 512 tokens, with changes."""
    return changed(record_of(KINDS[0], 512, "perplexity"), **changes)


def changed(record: Record, **changes: Any) -> Record:
    """The record with parts replaced, by paths joined with __: quality__status="oom"; and an id to match."""
    data = record.model_dump()
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = data
        for name in parents:
            target = target[name]
        target[last] = value
    if changes and "id" not in changes:
        data["id"] = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
    return Record.model_validate(data)


def sweep(contexts: tuple[int, ...] = (512, 1024, 2048), kinds: tuple[Kind, ...] = KINDS) -> list[Record]:
    """Every method at every context: perplexity everywhere, needle at 1,024."""
    return [
        record_of(kind, context, task)
        for context in contexts
        for kind in kinds
        for task in ("perplexity", "needle")
        if task == "perplexity" or context == 1024
    ]


def record_of(kind: Kind, context: int, task: str) -> Record:
    rng = random.Random(f"{kind.label} {context} {task}")
    quality = perplexity(kind, context, rng) if task == "perplexity" else needle(kind, context, rng)
    measured = task == "perplexity"
    return Record(
        id=hashlib.sha256(f"{kind.label} {context} {task}".encode()).hexdigest(),
        created="2026-11-23T12:00:00Z",
        cell=Cell(
            model="smollm2-135m",
            dtype="float32",
            device="cpu",
            method=kind.parameters,
            task={"name": task, **({"compress_at": "context", "samples": 8} if task == "needle" else {})},
            protocol={"chunk": 512},
            context=context,
        ),
        info=MethodInfo(
            family=kind.family,
            label=kind.label,
            tags=kind.tags,
            needs_training=kind.needs_training,
            bounded=kind.bounded,
            query_sensitive=kind.query_sensitive,
            paper=kind.paper,
        ),
        method_hash="m1",
        protocol_hash="p1",
        environment=ENVIRONMENT,
        config={},
        model_info={"revision": "b179c952"},
        quality=quality,
        memory=memory(kind, context) if measured else Memory(status="skipped"),
        time=time(kind, context, rng) if measured else Time(status="skipped"),
    )


def perplexity(kind: Kind, context: int, rng: random.Random) -> Quality:
    doublings = (context // 512).bit_length() - 1
    mean = kind.agreement[0] - kind.agreement[1] * doublings
    exact = mean >= 1
    samples = []
    for text in ("moby-dick", "python-docs"):
        agreement = [1.0 if exact else min(1.0, max(0.0, rng.gauss(mean, 0.05))) for _ in range(8)]
        agreement = [round(a * 32) / 32 for a in agreement]
        kl = [0.0 if exact else (1 - a) ** 1.5 * 4 + 0.002 for a in agreement]
        base = random.Random(f"{text} {context}")
        nll = [base.gauss(2.7, 0.3) + 0.8 * k for k in kl]
        samples.append({"text": text, "blocks": {"agreement": agreement, "kl": kl, "nll": nll}})
    return Quality(
        status="ok", repetitions=1, task="perplexity", task_version=1, task_hash="perp0001",
        sample_set=f"n=2 seed=0 context={context}", primary="agreement", samples=tuple(samples),
        state=state(kind, context - 256, 256),
        scores={
            "agreement": blocks_score(samples, "agreement"),
            "perplexity": blocks_score(samples, "nll", exp=True, higher_is_better=False),
            "kl": blocks_score(samples, "kl", higher_is_better=False, unit="nats"),
        },
    )  # fmt: skip


def blocks_score(samples: list[dict[str, Any]], name: str, *, exp: bool = False, **about: Any) -> Score:
    values = [v for s in samples for v in s["blocks"][name]]
    n = len(values)
    mean = sum(values) / n
    error = 1.96 * (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5
    value, low, high = ((math.exp if exp else float)(x) for x in (mean, mean - error, mean + error))
    return Score(value=value, n=n, low=low, high=high, interval="bootstrap", **about)


def needle(kind: Kind, context: int, rng: random.Random, n: int = 8) -> Quality:
    chance = 1.0 if kind.agreement[0] > 0.95 else 0.9 if kind.label == "kivi2" else max(0, kind.agreement[0] - 0.6)
    samples = [{"targets": ["1234567"], "generation": "1", "correct": rng.random() < chance} for _ in range(n)]
    correct = sum(s["correct"] for s in samples)
    low, high = wilson(correct / n, n)
    return Quality(
        status="ok", repetitions=1, task="needle", task_version=1, task_hash="need0001",
        sample_set=f"n={n} seed=0 needle", primary="accuracy", samples=tuple(samples),
        state=state(kind, context - 64, 64),
        scores={"accuracy": Score(value=correct / n, n=n, low=low, high=high, interval="wilson")},
    )  # fmt: skip


def state(kind: Kind, prompt: int, new: int) -> QualityState:
    """What a kind holds of a prompt, and after `new` tokens: on top, where it selects once."""
    wide = 2 if kind.fp32 else 1
    sealed = kind.held(prompt)
    once = kind.family == "selection" and not kind.bounded
    final = sealed + PER_TOKEN16 * new if once else kind.held(prompt + new)
    return QualityState(
        sealed_tokens=prompt, sealed_payload=sealed * wide, share16=sealed / (PER_TOKEN16 * prompt),
        final_payload=final * wide,
    )  # fmt: skip


def memory(kind: Kind, context: int) -> Memory:
    held = int(kind.held(context) * (2 if kind.fp32 else 1))
    slack = int(held * 0.12) if "growing" in kind.tags and kind.family != "baseline" else 0
    dense16 = PER_TOKEN16 * context
    peak = WEIGHTS + held + slack + 30_000_000
    return Memory(
        status="ok", repetitions=1, prompt_tokens=context - 32, decoded_tokens=32, chunk=512,
        nominal=int(held * 0.9), analytic_payload=held, analytic_slack=slack, live_payload=held, live_slack=slack,
        live_host=0, sealed_payload=held, dense16=dense16, share16=kind.held(context) / dense16, bytes_read=held,
        weights=WEIGHTS, peak=peak + 20_000_000, prefill_peak=peak + 20_000_000, decode_peak=peak,
    )  # fmt: skip


def time(kind: Kind, context: int, rng: random.Random) -> Time:
    base, slope = kind.milliseconds
    decode = (base + slope * context) * rng.uniform(0.97, 1.03) / 1e3
    prefill = context * 2.1e-3 * rng.uniform(0.95, 1.1)
    return Time(
        status="ok", repetitions=3, warmups=1, prompt_tokens=context - 32, decoded_tokens=32, chunk=512,
        prefill=Quartiles(median=prefill, q1=prefill * 0.98, q3=prefill * 1.03, n=3),
        decode=Quartiles(median=decode, q1=decode * 0.97, q3=decode * 1.05, n=3),
        prefill_tokens_per_second=(context - 32) / prefill, decode_tokens_per_second=1 / decode, mbu=0.61,
        copy_bandwidth=1.9e10,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make() -> Callable[..., Record]:
    """`build`: one record, with changes."""
    return build


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Thirteen methods at three contexts."""
    return sweep()


@pytest.fixture(scope="session")
def cell_of() -> Callable[..., Record]:
    """(label, context, task, **changes) -> that cell of the made-up sweep, with changes."""
    by_label = {kind.label: kind for kind in KINDS}

    def make_one(label: str, context: int = 1024, task: str = "perplexity", **changes: Any) -> Record:
        return changed(record_of(by_label[label], context, task), **changes)

    return make_one
