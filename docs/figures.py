"""The figures of the documentation, made when it is built: one is arithmetic, the other is measured where it is built.

MkDocs calls `on_files` (mkdocs.yml, hooks). Nothing is written into the sources.
"""

from __future__ import annotations

import time
from io import StringIO
from statistics import median
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from kvfrontier.methods import Dense, Method, Window
from kvfrontier.runners import budget, compose, models
from kvfrontier.runners.session import Session

#: Models whose cache is drawn, and the bytes of their weights at 16 bits.
SHAPES = {"llama-3-8b": 2 * 8.03e9, "llama-3-70b": 2 * 70.6e9}
#: A model of random weights, so small that a context of thousands outweighs it.
SMALL = {
    "name": "tiny", "kind": "tiny", "device": "cpu", "layers": 4, "heads": 8, "kv_heads": 8, "head_dim": 64,
    "hidden": 256, "intermediate": 512, "max_context": 16384,
}  # fmt: skip
CONTEXTS = (512, 1024, 2048, 4096, 8192)
DECODED = 12


def on_files(files: Any, config: Any) -> Any:
    """Add the figures to what MkDocs builds."""
    from mkdocs.structure.files import File

    for name, figure in {"cache-and-weights": cache_and_weights(), "decode-time": decode_time()}.items():
        files.append(File.generated(config, f"concepts/figures/{name}.svg", content=svg(figure)))
    return files


def cache_and_weights() -> Figure:
    """Bytes of cache against context, beside the weights: closed forms on each model's shapes."""
    compose.register()
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    contexts = [2**k for k in range(12, 21)]
    for color, (name, weights) in zip(("C0", "C1"), SHAPES.items(), strict=True):
        layers = models.layers(compose.choice("model", name))
        held = [budget.dense_payload(layers, 1, n) / 2**30 for n in contexts]
        axes.plot(contexts, held, color=color, marker="o", label=f"{name}, cache of one sequence")
        axes.axhline(weights / 2**30, color=color, linestyle="--", label=f"{name}, weights")
    axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="GiB at 16 bits")
    axes.set_xticks(contexts, [f"{n // 1024}K" for n in contexts])
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def decode_time() -> Figure:
    """Milliseconds a decoded token against context, dense attention and a window, measured here."""
    model = models.load(SMALL).model
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, method in {"dense": Dense(), "window of 256": Window(256)}.items():
        axes.plot(CONTEXTS, [milliseconds(model, method, n) for n in CONTEXTS], marker="o", label=name)
    axes.set(xlabel="context, tokens", ylabel="ms a decoded token", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def milliseconds(model: Any, method: Method, context: int) -> float:
    """The median time of a decoded token after `context` random ones."""
    ids = torch.randint(model.config.vocab_size, (1, context + DECODED), generator=torch.Generator().manual_seed(0))
    taken = []
    with Session(model, method) as session:
        session.prefill(ids[:, :context], chunk=512)
        for i in range(DECODED):
            begun = time.perf_counter()
            session.decode(ids[:, context + i : context + i + 1])
            taken.append(1e3 * (time.perf_counter() - begun))
    return median(taken[2:])  # the first ones warm up


def svg(figure: Figure) -> str:
    """A figure as text, without a date."""
    out = StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "kvfrontier"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
