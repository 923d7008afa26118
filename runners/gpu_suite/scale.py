"""Sizes: those a GPU is asked for, and tiny ones that take the same path on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The shape is one model's, of whose layers there are `layers`.

    contexts      tokens at which curves are taken; families: at which families are; first: those that come first
    chunk         tokens of a prefill call
    queries       of a prefill measured at the end of a context
    most_prefill  the longest prompt that is read by a method whose prefill is quadratic; beyond, its cache is filled
    most_eager    the longest context of backends that hold a T x S matrix or float32 copies
    whole         layers of the model on which the wall is sought; step: tokens to which it is found
    pretended     bytes at which memory is said to be over, where it is not to be filled in earnest; None: earnest
    new           tokens that are decoded and timed
    """

    device: str
    dtype: str
    hq: int
    hkv: int
    d: int
    hidden: int
    intermediate: int
    vocabulary: int
    layers: int
    whole: int
    contexts: tuple[int, ...]
    families: tuple[int, ...]
    first: tuple[int, ...]
    chunk: int
    queries: int
    most_prefill: int
    most_eager: int
    step: int
    new: int
    repetitions: int
    pretended: int | None = None
    #: Words of the embedded model's sweep; of a dry run, of a random one.
    quality: tuple[str, ...] = ()
    quality_methods: tuple[str, ...] = ()
    window: int = 4096
    dry: bool = False


#: Llama-3.1-8B's layer.
GPU = Scale(
    device="cuda", dtype="bfloat16", hq=32, hkv=8, d=128, hidden=4096, intermediate=14336, vocabulary=128256, layers=4,
    whole=32, contexts=tuple(1 << i for i in range(10, 21)), families=tuple(1 << i for i in (12, 15, 17, 18, 20)),
    first=(1 << 15, 1 << 17, 1 << 20), chunk=8192, queries=4096, most_prefill=1 << 17, most_eager=1 << 15,
    step=1 << 14, new=32, repetitions=15, quality=("model=smollm2-135m", "context=2048", "task=perplexity,needle"),
    quality_methods=(
        "dense", "window", "sinks", "snapkv", "kivi4", "kivi2", "quest", "h2o", "linear", "compressive_small", "duo",
    ),
)  # fmt: skip

TINY = Scale(
    device="cpu", dtype="float32", hq=4, hkv=2, d=32, hidden=64, intermediate=96, vocabulary=258, layers=2, whole=2,
    contexts=(64, 256), families=(64, 192), first=(64,), chunk=64, queries=32, most_prefill=64, most_eager=1 << 15,
    step=256, new=2, repetitions=2, pretended=1 << 20, quality=("model=tiny", "context=512", "task=perplexity"),
    quality_methods=("window",), window=32, dry=True,
)  # fmt: skip
