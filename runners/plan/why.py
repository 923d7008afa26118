"""Why a plan needs what it needs: the terms of its peak, which of them dominates, and what would help most.

Each remedy is tried, by the closed forms or by a run on fake tensors, so that what it saves is a number and not advice
in general. What a remedy costs in quality is for records to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kvfrontier.methods import registry
from kvfrontier.runners import compose
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.sizes import footprint

#: Of each way to hold less, the one that is best known.
_SMALLER = ("int4", "kivi4", "sinks", "h2o", "snapkv")
#: Bits of a weight, its share of a scale included, where weights are quantized to 4.
_WEIGHT_BITS = 4.5
NAMES = {
    "weights": "the weights",
    "cache": "the cache",
    "fragmentation": "memory that the cache allocates and does not use",
    "logits": "the logits of the whole prompt",
    "activations": "activations",
}


@dataclass(frozen=True)
class Remedy:
    """What to change for one term, and bytes of the peak that it saves."""

    term: str
    do: str
    saved: int


@dataclass(frozen=True)
class Why:
    """Bytes of the peak by term (NAMES), the phase in which it comes, and what would help, most first."""

    terms: dict[str, int]
    phase: str
    remedies: tuple[Remedy, ...]

    @property
    def dominant(self) -> str:
        return max(self.terms, key=self.terms.__getitem__)

    def share(self, term: str) -> float:
        return self.terms[term] / sum(self.terms.values())

    def text(self) -> str:
        """The diagnosis in a sentence or two."""
        rest = [f"{NAMES[term]} {self.share(term):.0%}" for term in ("cache", "weights") if term != self.dominant]
        said = f"{NAMES[self.dominant]} {self.share(self.dominant):.0%} of the peak, in {self.phase}"
        text = f"{said} ({', '.join(rest)})"
        if not self.remedies:
            return text
        best = self.remedies[0]
        return f"{text}; what helps most: {best.do}, which saves {best.saved / (1 << 30):.2f} GiB"

    def as_json(self) -> dict[str, Any]:
        remedies = [{"term": r.term, "do": r.do, "saved_bytes": r.saved} for r in self.remedies]
        return {"terms": self.terms, "phase": self.phase, "dominant": self.dominant, "remedies": remedies,
                "text": self.text()}  # fmt: skip


def explain(planned: Planned) -> Why:
    """The terms of the peak, whichever of prefill and decoding has it, and the remedies that save something."""
    found = planned.peaks
    in_prefill = planned.on_device(found.prefill_parts) >= planned.on_device(found.decode_parts)
    phase, parts = ("prefill", found.prefill_parts) if in_prefill else ("decoding", found.decode_parts)
    terms = {
        "weights": parts.weights,
        "cache": planned.on_device(parts) - parts.device + parts.state,
        "fragmentation": parts.slack,
        "logits": parts.logits,
        "activations": parts.activations,
    }
    remedies = sorted(_remedies(planned, terms), key=lambda remedy: -remedy.saved)
    return Why(terms, phase, tuple(remedy for remedy in remedies if remedy.saved > 0))


def _peak(planned: Planned, logits_last: bool = False) -> int:
    found = planned.peaks_at(planned.asked.cell.context, "last" if logits_last else None)
    return max(map(planned.on_device, (found.prefill_parts, found.decode_parts)))


def _remedies(planned: Planned, terms: dict[str, int]) -> Iterator[Remedy]:
    bits = 8 * planned.layers[0].dtype.itemsize
    saved = int(terms["weights"] * (1 - _WEIGHT_BITS / bits))
    yield Remedy("weights", "weights of 4 bits, a smaller model, or more devices", saved)
    yield Remedy(
        "logits", "logits=last (logits_to_keep=1 in transformers)", _peak(planned) - _peak(planned, logits_last=True)
    )
    yield Remedy("fragmentation", _less_waste(planned), terms["fragmentation"])
    name, saved = max(_smaller(planned, terms["cache"]), key=lambda one: one[1], default=("", 0))
    yield Remedy("cache", f"a smaller cache, as of method={name}", saved)
    chunk = (planned.asked.chunk or planned.asked.cell.context) // 4
    # Without activations to speak of there is nothing to run for.
    if chunk and terms["activations"] > sum(terms.values()) / 10:
        yield Remedy("activations", f"chunk={chunk}", _peak(planned) - _peak(_with_chunk(planned, chunk)))


def _less_waste(planned: Planned) -> str:
    block = planned.asked.cell.method.get("block")
    return f"blocks smaller than method.block={block}" if block else "method=paged, whose blocks leave little unused"


def _smaller(planned: Planned, cache: int) -> Iterator[tuple[str, int]]:
    """Methods at their usual settings, and bytes that each saves at the fuller of two points."""
    cell, new = planned.asked.cell, planned.asked.new
    prompt = cell.context - new
    for name in _SMALLER:
        method = registry.build(registry.complete(compose.choice("method", name)))
        try:
            for layer in planned.layers:
                method.validate(layer)
            before = footprint(method, planned.layers, cell.batch, prompt, sealed=False).held.payload
            after = footprint(method, planned.layers, cell.batch, prompt, new).held.payload
        except ValueError:
            continue
        yield name, cache - max(before, after)


def _with_chunk(planned: Planned, chunk: int) -> Planned:
    cell = planned.asked.cell
    return Planned(replace(planned.asked, cell=cell.model_copy(update={"protocol": {**cell.protocol, "chunk": chunk}})))
