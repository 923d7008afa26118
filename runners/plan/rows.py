"""One line of a plan: what a cell takes, whether it fits, what would fit, and how long it takes at best.

The state is exact, by the closed forms. The peak is that of the real code on fake tensors. What fits at another context
or batch is found from both: the state in closed form, and the rest of the peak (activations), which grows linearly.
What a method keeps on the host counts where the device's memory is the host's, and is shown apart where it is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from kvfrontier.methods import Layer, Method, registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import models
from kvfrontier.runners.plan import roofline
from kvfrontier.runners.plan.peaks import Peaks, peaks_or_bound
from kvfrontier.runners.plan.run import Logits, Run
from kvfrontier.runners.plan.sizes import footprint, most_held
from kvfrontier.runners.plan.words import Asked
from kvfrontier.runners.record import Parts, canonical_json
from kvfrontier.runners.search.seek import largest

_NUMBERS = (
    "weights_bytes", "state_bytes", "slack_bytes", "prefill_peak_bytes", "decode_peak_bytes", "host_bytes", "fits",
    "max_context", "max_batch", "ttft_seconds", "ttft_bound", "token_seconds", "token_bound", "peaks_exact",
)  # fmt: skip
#: Where a search for what fits gives up: nothing bounds it before.
MOST_TOKENS, MOST_ROWS = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Planned:
    """One cell that is planned."""

    asked: Asked

    @cached_property
    def method(self) -> Method:
        return registry.build(self.asked.cell.method)

    @cached_property
    def layers(self) -> list[Layer]:
        dtype = models.resolve_dtype(self.asked.cell.dtype)
        return [layer.at(dtype) for layer in _layers(canonical_json(self.asked.model))]

    @cached_property
    def anatomy(self) -> roofline.Anatomy:
        return roofline.anatomy(self.asked.model)

    @cached_property
    def peaks(self) -> Peaks:
        return self.peaks_at(self.asked.cell.context)

    def peaks_at(self, context: int, logits: Logits | None = None) -> Peaks:
        """Of this cell at another context; a bound where the method does not run on fake tensors."""
        asked = self.asked
        run = Run(
            model=asked.model,
            method=asked.cell.method,
            batch=asked.cell.batch,
            prompt=context - asked.new,
            new=asked.new,
            chunk=asked.chunk,
            logits=logits or asked.logits,
        )
        return peaks_or_bound(run, self.method, self.layers)

    def on_device(self, parts: Parts) -> int:
        """Bytes of a peak that lie in the device's memory."""
        return parts.device + (parts.host if self.asked.hardware.is_host else 0)

    def held_on_device(self, context: int, batch: int) -> int:
        """Bytes of state there, slack included, at the fuller of two points: before seal, and at the end."""
        prompt, host = context - self.asked.new, self.asked.hardware.is_host
        return most_held(self.method, self.layers, batch, prompt, self.asked.new, host)

    # ---------------------------------------------------------------------------------------- what fits

    def _base(self, context: int, batch: int) -> int:
        """Weights and state."""
        foreign = self.peaks.foreign * batch // self.asked.cell.batch
        return self.anatomy.weights + foreign + self.held_on_device(context, batch)

    @cached_property
    def _activations(self) -> tuple[float, float]:
        """The rest of the peak, as a line over the context: bytes at 0, and bytes a token."""
        context, chunk = self.asked.cell.context, self.asked.chunk
        if chunk:
            # Within a chunk activations grow as the text does, and past it they do not. Two chunks are soon run.
            short = self.asked.new + 2 * chunk
            context = max(context, 2 * short)
        else:
            short = max(self.asked.new + 1, context // 2)
        rest = {}
        for n in (short, context):
            there = self.peaks_at(n)
            peak = max(self.on_device(there.prefill_parts), self.on_device(there.decode_parts))
            rest[n] = max(0, peak - self._base(n, self.asked.cell.batch))
        slope = (rest[context] - rest[short]) / max(1, context - short)
        return rest[context] - slope * context, slope

    def _peak(self, context: int, batch: int) -> float:
        at_0, slope = self._activations
        rest = max(0.0, at_0 + max(0.0, slope) * context)
        return self._base(context, batch) + rest * batch / self.asked.cell.batch

    @property
    def max_context(self) -> int:
        """Tokens of the longest context that fits, in whole chunks; MOST_TOKENS where nothing bounds it."""
        batch, step = self.asked.cell.batch, self.asked.chunk or 256
        memory = self.asked.hardware.memory
        return step * largest(lambda n: self._peak(n * step, batch) <= memory, start=1, most=MOST_TOKENS // step)

    @property
    def max_batch(self) -> int:
        """Sequences of this context that fit."""
        context = self.asked.cell.context
        return largest(lambda b: self._peak(context, b) <= self.asked.hardware.memory, start=1, most=MOST_ROWS)

    # ---------------------------------------------------------------------------------------- the row

    @property
    def _named(self) -> dict[str, Any]:
        cell = self.asked.cell
        return {
            "model": self.asked.choice,
            "method": cells.method_label(cell),
            "device": self.asked.hardware.name,
            "dtype": cell.dtype,
            "context": cell.context,
            "batch": cell.batch,
            "chunk": self.asked.chunk,
        }

    def refused(self, why: str) -> dict[str, Any]:
        """The row of a cell that cannot be run."""
        return {**self._named, **dict.fromkeys(_NUMBERS), "note": why}

    def row(self) -> dict[str, Any]:
        """Sizes in bytes, times in seconds."""
        asked = self.asked
        cell, device = asked.cell, asked.hardware
        found = self.peaks
        prompt = cell.context - asked.new
        at_end = footprint(self.method, self.layers, cell.batch, prompt, asked.new)
        held = most_held(self.method, self.layers, cell.batch, prompt, asked.new)
        prefill, decode = self.on_device(found.prefill_parts), self.on_device(found.decode_parts)
        ttft = roofline.prefill(device, self.anatomy, self.layers, cell.batch, prompt, asked.chunk, held)
        token = roofline.decode(
            device, self.anatomy, self.layers, cell.batch, cell.context, at_end.read + found.foreign // cell.batch
        )
        return {
            **self._named,
            "weights_bytes": self.anatomy.weights,
            "state_bytes": at_end.held.payload + found.foreign,
            "slack_bytes": at_end.held.slack,
            "prefill_peak_bytes": prefill,
            "decode_peak_bytes": decode,
            "host_bytes": 0 if device.is_host else max(found.prefill_parts.host, found.decode_parts.host),
            "fits": max(prefill, decode) <= device.memory,
            "max_context": self.max_context,
            "max_batch": self.max_batch,
            "ttft_seconds": ttft.seconds,
            "ttft_bound": ttft.bound,
            "token_seconds": token.seconds,
            "token_bound": token.bound,
            "peaks_exact": not found.why,
            "note": self.note,
        }

    @property
    def note(self) -> str:
        """What a reader must know before the numbers."""
        notes = []
        workload, cell = self.asked.workload, self.asked.cell
        if workload is not None and workload.tokens - workload.shared < cell.batch * cell.context:
            notes.append(
                f"{workload.name} as {cell.batch} rows of its longest request, {cell.batch * cell.context:,} tokens; "
                f"its own are {workload.tokens - workload.shared:,}, and kvfrontier run workload={workload.name} "
                "measures these"
            )
        positions = getattr(models.configuration(self.asked.model).get_text_config(), "max_position_embeddings", None)
        if positions and self.asked.cell.context > positions:
            notes.append(f"the model was made for {positions} positions")
        host = max(self.peaks.prefill_parts.host, self.peaks.decode_parts.host)
        if host and not self.asked.hardware.is_host:
            notes.append(f"keeps {host / (1 << 30):.2f} GiB on the host, which no peak counts")
        if self.peaks.why:
            notes.append(f"peaks are bounds: {self.peaks.why}")
        return "; ".join(notes)


@lru_cache(maxsize=16)
def _layers(model: str) -> tuple[Layer, ...]:
    return models.layers(json.loads(model))
