"""Scale on paper: `kvfrontier plan --on-paper -o DIR`. Models of 70 and 405 billion parameters, a million tokens, many
sequences, several GPUs: what nobody here can run, from the same closed forms and the same fake-tensor runs as any plan.

Eight GPUs share a model by tensor parallelism: weights, heads and their state fall into equal parts, and a token waits
for two sums over all GPUs a layer. That is arithmetic, not a measurement, so the page marks every number as predicted,
says how far measured decoding stays behind the same floor where records tell it, and lists what would have to be true.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kvfrontier.runners import cell as cells
from kvfrontier.runners.plan import roofline, words
from kvfrontier.runners.plan.hardware import hardware
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.sizes import footprint
from kvfrontier.runners.record import Record

MODELS = ("llama-3-70b", "llama-3.1-405b")
#: One or two of each family: all, fewer tokens, fewer bits, part of it read, one matrix.
METHODS = (
    "method=dense", "method=kivi4", "method=kivi2", "method=snapkv method.budget=4096",
    "method=sinks method.window=4092", "method=quest", "method=linear",
)  # fmt: skip
CONTEXTS, BATCHES, DEVICES, GPUS = (131072, 1048576), (1, 64), ("h100-80g", "h200-141g"), 8
COLUMNS = (
    "Method", "Context", "Batch", "State", "Activations", "Fits", "GPUs needed", "Token, at best", "Sums", "Tokens/s",
    "First",
)  # fmt: skip
#: Bytes a second into one GPU over NVLink 4: half of the 900 GB/s that both directions have together.
LINK = 450e9
#: Seconds that a sum over the GPUs of a node takes however little is summed.
LATENCY = 10e-6


@dataclass(frozen=True)
class Line:
    """One method at one size, bytes on one GPU of `gpus`; seconds of all GPUs together, at best.

    needed   GPUs of this kind that the bytes would need, in whole multiples of those that the heads fall into
    sums     seconds a token that the sums over GPUs add
    """

    model: str
    device: str
    method: str
    context: int
    batch: int
    gpus: int
    weights: int
    state: int
    activations: int
    fits: bool
    needed: int
    token: float
    bound: str
    sums: float
    first: float
    tokens_per_second: float


@dataclass(frozen=True)
class OnPaper:
    """One cell over `gpus` devices.

    activations   bytes that a single sequence's chunk needs anywhere, which no GPU is spared
    """

    planned: Planned
    batch: int
    gpus: int
    activations: int

    def line(self) -> Line:
        planned, batch, gpus = self.planned, self.batch, self.gpus
        asked, layers, anatomy = planned.asked, planned.layers, planned.anatomy
        context, device = asked.cell.context, asked.hardware
        together = replace(device, bandwidth_gb_s=device.bandwidth_gb_s * gpus, bf16_tflop_s=device.bf16_tflop_s * gpus)
        held = planned.held_on_device(context, batch)
        read = footprint(planned.method, layers, batch, context - asked.new, asked.new).read
        token = roofline.decode(together, anatomy, layers, batch, context, read)
        first = roofline.prefill(together, anatomy, layers, 1, context - asked.new, asked.chunk, held // batch)
        each = -(-anatomy.weights // gpus), -(-held // gpus)
        total = sum(each) + self.activations
        # The heads of keys and values fall to so many GPUs; beyond, further nodes hold further layers.
        spare = device.memory - self.activations
        needed = math.ceil((anatomy.weights + held) / spare / gpus) * gpus if spare > 0 else 0
        hidden = layers[0].hidden or layers[0].hq * layers[0].d
        summed = 2 * len(layers) * (LATENCY + 2 * batch * hidden * 2 / LINK)
        return Line(
            model=asked.choice, device=device.name, method=cells.method_label(asked.cell), context=context, batch=batch,
            gpus=gpus, weights=each[0], state=each[1], activations=self.activations, fits=total <= device.memory,
            needed=needed, token=token.seconds, bound=token.bound, sums=summed, first=first.seconds,
            tokens_per_second=batch / (token.seconds + summed),
        )  # fmt: skip


def lines(
    say: Callable[[str], None], models: Sequence[str] = MODELS, methods: Sequence[str] = METHODS,
    contexts: Sequence[int] = CONTEXTS, batches: Sequence[int] = BATCHES, devices: Sequence[str] = DEVICES,
) -> list[Line]:  # fmt: skip
    """Every model, method and size. The fake run is of one sequence; the bytes of more follow in closed form."""
    found = []
    for model in models:
        for method in methods:
            for context in contexts:
                say(f"{model} {method} {context}")
                (asked,) = words.read([f"model={model}", *method.split(), f"context={context}"])
                parts = Planned(asked).peaks.prefill_parts
                for device in devices:
                    planned = Planned(replace(asked, hardware=hardware(device)))
                    found += [
                        OnPaper(planned, batch, GPUS, parts.activations + parts.logits).line() for batch in batches
                    ]
    return found


def shares(records: Iterable[Record]) -> dict[str, tuple[float, str, int]]:
    """What share of the bandwidth measured decodes reach, by method: median over the cells of the device that has most,
    its name, and how many cells."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.time.status == "ok" and record.time.mbu:
            label = cells.method_label(record.cell)
            found[label][record.environment.device_name].append(record.time.mbu)
    best = {label: max(by.items(), key=lambda one: len(one[1])) for label, by in found.items()}
    return {label: (statistics.median(values), device, len(values)) for label, (device, values) in best.items()}


def write(found: Sequence[Line], measured: dict[str, tuple[float, str, int]], folder: Path) -> list[Path]:
    """on_paper.md and on_paper.json in `folder`."""
    data, page = folder / "on_paper.json", folder / "on_paper.md"
    data.write_text(json.dumps([asdict(line) for line in found], indent=1) + "\n", encoding="utf-8")
    page.write_text("\n".join(_page(found, measured)) + "\n", encoding="utf-8")
    return [data, page]


def _page(found: Sequence[Line], measured: dict[str, tuple[float, str, int]]) -> list[str]:
    gpus = found[0].gpus
    text = [
        "# Scale on paper",
        "",
        f"**Predicted, not measured.** Weights and state of {gpus} GPUs by closed forms, activations by the method's",
        "own code on fake tensors, seconds by bytes over bandwidth or operations over their peak, whichever is more.",
        "bf16, chunks of 4,096 tokens. Again: `kvfrontier plan --on-paper -o DIR`.",
        "",
    ]
    for model, device in dict.fromkeys((line.model, line.device) for line in found):
        members = [line for line in found if (line.model, line.device) == (model, device)]
        text += [
            f"## {model} on {gpus} x {device}",
            "",
            f"GiB on each GPU, of which weights take {members[0].weights / 2**30:.1f}. *GPUs needed* counts in steps",
            f"of {gpus}; *Sums* are those over GPUs, in every token; *First* is one sequence's first token, at best.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
        ]
        for line in members:
            text.append(
                f"| {line.method} | {line.context:,} | {line.batch} | {line.state / 2**30:,.1f} "
                f"| {line.activations / 2**30:.1f} | {'yes' if line.fits else 'no'} | {line.needed} "
                f"| {line.token * 1e3:,.1f} ms ({line.bound}) | {line.sums * 1e3:.1f} ms "
                f"| {line.tokens_per_second:,.0f} | {line.first:,.0f} s |"
            )
        text.append("")
    return text + _beside(found, measured) + _conditions(found)


def _beside(found: Sequence[Line], measured: dict[str, tuple[float, str, int]]) -> list[str]:
    """How far measured decodes stay behind the same floor."""
    text = ["## Beside what is measured", ""]
    known = [method for method in dict.fromkeys(line.method for line in found) if method in measured]
    if not known:
        return [*text, "No record here times one of these methods; `--results DIR` names some.", ""]
    text += [
        "Decoding as records time it, as a share of the same floor (weights and state read over the bandwidth of that",
        "device). A prediction above, divided by such a share, is what the same code would take.",
        "",
        "| Method | Share of the floor | Cells | Device |",
        "|---|--:|--:|---|",
    ]
    for method in known:
        share, device, n = measured[method]
        text.append(f"| {method} | {share:.2f} | {n} | {device} |")
    return [*text, ""]


def _conditions(found: Sequence[Line]) -> list[str]:
    """What would have to be true, with the size of each claim."""
    largest = max(found, key=lambda line: (line.context, line.batch, line.weights))
    same = [line for line in found if (line.model, line.device, line.context, line.batch) ==
            (largest.model, largest.device, largest.context, largest.batch)]  # fmt: skip
    dense = next((line for line in same if line.method == "dense"), largest)
    fitting = [line.method for line in same if line.fits]
    need = "; ".join(f"{line.method} {line.needed}" for line in same)
    size = f"{largest.model} at {largest.context:,} tokens and batch {largest.batch} on {largest.device}"
    conditions = {
        "The memory is there.": f"{size}: of these methods {', '.join(fitting) or 'none'} fit {largest.gpus} GPUs. "
        f"GPUs needed: {need}.",
        "Heads divide.": f"{largest.gpus} GPUs take one key/value head each. More GPUs than heads hold copies of them, "
        "or further layers, and then the bytes do not fall as they do here.",
        "Sums cost what they are said to.": f"{LATENCY * 1e6:.0f} us, and {LINK / 1e9:.0f} GB/s into a GPU: "
        f"{largest.sums * 1e3:.1f} ms a token of this size, beside {dense.token * 1e3:,.0f} ms of a dense one at best. "
        "Neither figure was measured here.",
        "Kernels reach the bandwidth.": "Every time above is a floor. See the shares that were measured, and those of "
        "`kvfrontier gpu-suite`.",
        "The prompt is read at all.": f"A dense prefill of {dense.context:,} tokens takes {dense.first / 60:,.0f} "
        "minutes a sequence at the devices' full rate, whatever the method drops afterwards.",
        "All sequences are there at once, and of one length.": "A server's are not: `kvfrontier allocate`.",
        "The model answers at this length.": "Llama 3 was made for 8,192 positions and Llama 3.1 for 131,072; beyond, "
        "nothing here says what it answers, with or without a method.",
        "The method loses as little as on a small model.": "Quality was measured on models of a hundredth of this "
        "size, at a hundredth of this length; linear attention needs a model that was trained for it.",
    }
    told = [f"- **{claim}** {what}" for claim, what in conditions.items()]
    return ["## What would have to be true", "", *told, ""]
