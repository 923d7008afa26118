"""One line of `kvfrontier allocate`: a case, served."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kvfrontier.runners.allocators.server import fit_at_once, serve
from kvfrontier.runners.allocators.words import Case


def row(case: Case) -> dict[str, Any]:
    """Memory in bytes and tokens, and its parts as shares that sum to 1: means over the steps at which a request
    waited (`under_pressure`), or over all where none ever did."""
    requests = case.traffic.requests()
    served = serve(case.allocator(), requests, case.max_length)
    return {
        "model": case.model,
        "dtype": case.dtype,
        "device": case.device or None,
        "memory_bytes": case.memory,
        "bytes_per_token": case.bytes_per_token,
        "capacity_tokens": case.capacity,
        "max_length": case.max_length,
        "policy": case.policy,
        "place": case.place,
        "block": case.block,
        "watermark": case.watermark,
        "sharing": case.sharing,
        "traffic": asdict(case.traffic),
        "requests": len(requests),
        **{f"{part}_share": share for part, share in served.shares().items()},
        "under_pressure": served.under_pressure,
        "fit_at_once": fit_at_once(case.allocator(), requests, case.max_length),
        "largest_batch": served.largest_batch,
        "mean_batch": served.mean_batch,
        "finished": served.finished,
        "queued": served.queued,
        "rejected": served.rejected,
        "preempted": served.preempted,
        "steps": served.steps,
        "note": _note(case, served.rejected),
    }


def _note(case: Case, rejected: int) -> str:
    """What a reader must know before the numbers."""
    never = f"rejected is what can never fit: longer than max_length={case.max_length}, or than the memory"
    return "; ".join(note for note in (never if rejected else "", case.note) if note)
