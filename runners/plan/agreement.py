"""Predicted against measured: `kvfrontier plan --agreement`, cell by cell.

Each cell is run twice, on fake tensors and on real ones with random weights. On the CPU what is predicted must be what
is measured, to the byte; on CUDA, whose allocator rounds and whose kernels allocate for themselves, to one part in
twenty. Temporaries inside kernels stand apart, as `workspace`: no tensor shows them on the CPU.

Methods that turn keys themselves (positions in the cache, Infini) are left out: what the bridge remembers of its last
four short calls' angles, some kilobytes here and a share of nothing in a large model, hangs on values that fake tensors
do not have, and is not predicted.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from kvfrontier.methods import Dense, registry
from kvfrontier.runners import compose, environment, meter, models
from kvfrontier.runners.plan.peaks import peaks
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.session import Session

#: Parameters so small that each method is at work in a text of some hundred tokens.
METHODS: dict[str, dict[str, Any]] = {
    "dense": {}, "window": {"window": 40}, "snapkv": {"budget": 64}, "pyramidkv": {"budget": 64},
    "h2o": {"budget": 64, "block": 16}, "tova": {"budget": 64}, "kivi2": {"residual": 32, "group": 16},
    "int8": {"residual": 0, "group": 16}, "fp8": {}, "paged": {}, "offloaded": {}, "moving_average": {},
    "keydiff": {"budget": 64}, "linear": {},
}  # fmt: skip
#: Context, chunk and batch. The last chunk of some is shorter than the others.
SHAPES = ((294, None, 1), (294, 64, 1), (294, 64, 2), (604, 100, 1))
DTYPES = ("float32", "bfloat16")
#: A real model's shape, for which the allocator's rounding is small.
LARGE = ("dense", "kivi2", "snapkv", "paged")
LARGE_SHAPE = (1028, 256, 2)
NEW = 4
CUDA_TOLERANCE = 0.05


@dataclass(frozen=True)
class Row:
    """One cell, in bytes. state: payload after the last token; agrees: to the byte, on CUDA to CUDA_TOLERANCE."""

    model: str
    method: str
    dtype: str
    context: int
    chunk: int | None
    batch: int
    predicted_state: int
    measured_state: int
    predicted_prefill_peak: int
    measured_prefill_peak: int
    predicted_decode_peak: int
    measured_decode_peak: int
    workspace: int | None
    agrees: bool

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Predicted and measured: state, prefill peak, decode peak."""
        return [
            (getattr(self, f"predicted_{what}"), getattr(self, f"measured_{what}"))
            for what in ("state", "prefill_peak", "decode_peak")
        ]


def cells() -> list[tuple[str, Run]]:
    """Every cell with the name of its model."""
    compose.register()
    small = itertools.product(METHODS, DTYPES, SHAPES)
    found = [("tiny", _run("tiny", METHODS[method], method, dtype, *shape)) for method, dtype, shape in small]
    return found + [("smollm2-135m", _run("smollm2-135m", {}, method, "bfloat16", *LARGE_SHAPE)) for method in LARGE]


def _run(
    model: str, settings: Mapping[str, Any], method: str, dtype: str, context: int, chunk: int | None, batch: int
) -> Run:
    params = registry.complete({**compose.choice("method", method), **settings})
    return Run({**compose.choice("model", model), "dtype": dtype}, params, batch, context - NEW, NEW, chunk)


def rows(asked: Sequence[tuple[str, Run]], device: str, say: Callable[[str], None]) -> Iterator[Row]:
    """The cells, predicted and measured on `device`."""
    for model, run in asked:
        say(f"{model} {registry.label(run.method)} {run.dtype} {run.prompt + run.new}")
        yield compare(model, run, device)


def compare(model: str, run: Run, device: str = "cpu") -> Row:
    """One cell."""
    foretold, found, layers = peaks(run), measured(run, device), models.layers(run.model)
    dtype = models.resolve_dtype(run.dtype)
    held = footprint(registry.build(run.method), [x.at(dtype) for x in layers], run.batch, run.prompt, run.new).held
    on_cpu = torch.device(device).type == "cpu"
    prefill, decode = (
        parts.device + (parts.host if on_cpu else 0) for parts in (foretold.prefill_parts, foretold.decode_parts)
    )
    row = Row(
        model, registry.label(run.method), run.dtype, run.prompt + run.new, run.chunk, run.batch,
        held.payload, found.live_payload or 0, prefill, found.prefill_peak or 0, decode, found.decode_peak or 0,
        found.workspace, agrees=False,
    )  # fmt: skip
    slack = 0 if on_cpu else CUDA_TOLERANCE
    return Row(**{**asdict(row), "agrees": all(abs(a - b) <= slack * b for a, b in row.pairs)})


def measured(run: Run, device: str = "cpu") -> Any:
    """The memory of a real run, by the meter. The bridge is there and has looked at the model before, so that what it
    keeps of its look, some hundred bytes, counts in neither."""
    # Outside of a fake mode the skeleton's parameters are real, and random.
    model = models.skeleton({**run.model, "device": "cpu"}).to(device)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (run.batch, run.prompt + run.new), generator=torch.Generator().manual_seed(0))
    prompt, decode = ids.to(device).split([run.prompt, run.new], 1)
    with Session(model, Dense()) as before:
        before.prefill(prompt[:, :2])
        method = registry.build(run.method)
        return meter.measure_memory(lambda: Session(model, method), prompt, decode, chunk=run.chunk, weights=model)


def write(found: Sequence[Row], device: str, folder: Path) -> list[Path]:
    """agreement.csv and agreement.md in `folder`."""
    table, page = folder / "agreement.csv", folder / "agreement.md"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in found)
    here = environment.describe(device)
    bound = "to the byte" if here.device_kind == "cpu" else f"within {CUDA_TOLERANCE:.0%}"
    agreeing = sum(row.agrees for row in found)
    versions = f"torch {here.torch}, transformers {here.transformers}, kvfrontier {here.kvfrontier}"
    lines = [
        "# Predicted and measured memory",
        "",
        f"{here.device_name}, {here.platform}; {versions}.",
        "",
        f"{agreeing} of {len(found)} cells agree {bound}: state, prefill peak and decode peak, in bytes, predicted by",
        "the method's own code on fake tensors and measured by the tensors of a run with random weights. Workspace is",
        "what kernels allocate beyond these. Left out are methods that turn keys themselves: angles that the bridge",
        "remembers of short calls, some kilobytes, are not predicted. Again: `kvfrontier plan --agreement -o DIR`.",
        "",
        "| Model | Method | dtype | Context | Chunk | Batch | State | Prefill peak | Decode peak | Workspace | Agree |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in found:
        numbers = " | ".join(_told(*pair) for pair in row.pairs)
        chunk = "whole" if row.chunk is None else row.chunk
        workspace = "" if row.workspace is None else f"{row.workspace:,}"
        lines.append(
            f"| {row.model} | {row.method} | {row.dtype} | {row.context} | {chunk} | {row.batch} | {numbers} "
            f"| {workspace} | {'yes' if row.agrees else 'no'} |"
        )
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [table, page]


def _told(predicted: int, found: int) -> str:
    """Bytes, once where both are the same."""
    return f"{found:,}" if predicted == found else f"{predicted:,} for {found:,}"
