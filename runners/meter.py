"""The meter: what a method costs in memory and in time, in two passes that do not disturb each other.

Both read a prompt, seal, and decode given tokens one at a time. The memory pass watches every operator and is slow;
the time pass watches nothing.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kvfrontier.methods.contract import Footprint, Method
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Bytes
from kvfrontier.runners.budget import at_16_bits
from kvfrontier.runners.peak import storage_bytes, track
from kvfrontier.runners.record import Memory, Quartiles, Time

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

OpenSession = Callable[[], "Session"]

MIB = 1 << 20


# ---------------------------------------------------------------------------------------------- memory


def measure_memory(
    open_session: OpenSession, prompt_ids: Tensor, decode_ids: Tensor, *, chunk: int | None, weights: nn.Module
) -> Memory:
    """The four sizes of a batch that reads `prompt_ids` [B, T], in chunks of `chunk` tokens, and decodes `decode_ids`
    [B, R], in bytes. One pass: sizes and peaks do not vary.

    `weights` is the model, which counts in the peaks. Where the state holds other than its closed form says, at seal
    or at the end, the status is "failed", and the reason names both numbers.
    """
    device = prompt_ids.device
    B, T = prompt_ids.shape
    R = decode_ids.shape[1]
    if device.type == "cuda":
        _run(open_session, prompt_ids[:, :16], decode_ids[:, :1], chunk)  # libraries allocate workspaces at first use
    gc.collect()
    tensors = list(chain(weights.parameters(), weights.buffers()))
    with track(device, external=tensors, workspace=device.type == "cpu") as memory, open_session() as session:
        memory.tell_apart(lambda: session.state, head_of(weights))
        session.prefill(prompt_ids, chunk=chunk)
        prefill_peak, prefill_parts, sealed = memory.peak, memory.peak_parts, session.state_bytes()
        wrong = difference("at seal", session.footprint().held, sealed)
        at16 = at_16_bits(session, B, T)
        memory.reset_peak()
        for i in range(R):
            session.decode(decode_ids[:, i : i + 1])
        decode_peak, decode_parts, resident = memory.peak, memory.peak_parts, memory.current
        live, predicted = session.state_bytes(), session.footprint()
        wrong = wrong or difference(f"after {R} decoded tokens", predicted.held, live)
        claimed = sum(method.nominal(layer, B, T, R) for layer, method in _own_states(session))
        nominal = claimed + _outside_layers(session, B, T, R)
    return Memory(
        status="failed" if wrong else "ok",
        reason=wrong,
        repetitions=1,
        prompt_tokens=T,
        decoded_tokens=R,
        chunk=chunk,
        nominal=nominal,
        analytic_payload=predicted.held.payload,
        analytic_slack=predicted.held.slack,
        live_payload=live.payload,
        live_slack=live.slack,
        live_host=live.host + live.host_slack,
        sealed_payload=sealed.payload,
        dense16=at16.dense,
        share16=at16.share,
        bytes_read=predicted.read,
        weights=storage_bytes(tensors),
        peak=max(prefill_peak, decode_peak),
        prefill_peak=prefill_peak,
        decode_peak=decode_peak,
        resident=resident,
        prefill_parts=prefill_parts,
        decode_parts=decode_parts,
        workspace=memory.workspace,
        allocator_waste=memory.allocator_waste,
    )


def head_of(model: Any) -> nn.Module:
    """The language-model head: what makes logits."""
    return model.get_output_embeddings()


def difference(when: str, predicted: Bytes, live: Bytes) -> str:
    """How a closed form and a state differ, in words; empty where they do not."""
    if predicted == live:
        return ""
    return (
        f"{when} the footprint says {_in_words(predicted)}, and the state holds {_in_words(live)}; "
        "correct the method's footprint, or free what it does not need"
    )


def _in_words(held: Bytes) -> str:
    words = f"{held.payload} bytes of payload and {held.slack} of slack"
    return f"{words} ({held.host + held.host_slack} on the host)" if held.host + held.host_slack else words


def _own_states(session: Session) -> list[tuple[Layer, Method]]:
    """The layers that have a state of their own, with the methods that serve them."""
    return [(layer, m) for layer, m in zip(session.layers, session.methods, strict=True) if layer.source is None]


def _payload(footprints: Iterable[Footprint]) -> int:
    return sum(footprint.held.payload for footprint in footprints)


def _outside_layers(session: Session, batch: int, prompt: int, new: int) -> int:
    """Payload of the sequence's state, and of what a hybrid model keeps in a cache of its own."""
    layers = _payload(method.footprint(layer, batch, prompt, new) for layer, method in _own_states(session))
    return session.footprint().held.payload - layers


# ---------------------------------------------------------------------------------------------- time


def measure_time(
    open_session: OpenSession,
    prompt_ids: Tensor,
    decode_ids: Tensor,
    *,
    chunk: int | None,
    repetitions: int = 3,
    warmups: int = 1,
    weights: nn.Module | None = None,
    rate: Bandwidth | None = None,
) -> Time:
    """Seconds to the first token (all chunks, seal, first logits) and seconds per decoded token, over repetitions in
    fresh sessions, after warm-ups that are thrown away.

    Shapes as in `measure_memory`. A repetition's decode time is the mean over its R steps, so that a step that packs
    or grows counts as often as it comes. With `weights`, the model, there is a model-bandwidth utilisation. `rate` is
    the device's bandwidth where it is known already; to measure it takes memory.
    """
    B, T = prompt_ids.shape
    R = decode_ids.shape[1]
    if repetitions < 1 or R < 1:
        raise ValueError(f"{repetitions} repetitions of {R} decoded tokens measure nothing; give at least 1 of each")
    for _ in range(warmups):
        _run(open_session, prompt_ids, decode_ids, chunk)
    runs = [_run(open_session, prompt_ids, decode_ids, chunk) for _ in range(repetitions)]
    prefill = quartiles([run.prefill for run in runs])
    decode = quartiles([run.decode / R for run in runs])
    rate = rate or bandwidth(prompt_ids.device)
    mbu = None
    if weights is not None:
        read = storage_bytes(chain(weights.parameters(), weights.buffers())) + B * runs[-1].bytes_read
        mbu = read / decode.median / rate.best
    return Time(
        status="ok",
        repetitions=repetitions,
        warmups=warmups,
        prompt_tokens=T,
        decoded_tokens=R,
        chunk=chunk,
        prefill=prefill,
        decode=decode,
        prefill_tokens_per_second=B * T / prefill.median,
        decode_tokens_per_second=B / decode.median,
        mbu=mbu,
        copy_bandwidth=rate.copy,
        read_bandwidth=rate.read,
    )


def quartiles(values: Sequence[float]) -> Quartiles:
    """Median and quartiles, interpolated between the values."""
    if len(values) == 1:
        return Quartiles(median=values[0], q1=values[0], q3=values[0], n=1)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median=median, q1=q1, q3=q3, n=len(values))


@dataclass(frozen=True)
class _Run:
    """Seconds of one prefill and of all decoded tokens together; bytes of state that the last token read."""

    prefill: float
    decode: float
    bytes_read: int


def _run(open_session: OpenSession, prompt_ids: Tensor, decode_ids: Tensor, chunk: int | None) -> _Run:
    device = prompt_ids.device
    steps = decode_ids.split(1, dim=1)
    with open_session() as session, _no_garbage_collection():
        synchronize(device)
        begun = time.perf_counter()
        session.prefill(prompt_ids, chunk=chunk)
        synchronize(device)
        first_token = time.perf_counter()
        for ids in steps:
            session.decode(ids)
        synchronize(device)
        ended = time.perf_counter()
        return _Run(first_token - begun, ended - first_token, session.footprint().read)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python may not choose this moment to look for cycles."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done what it was given; and the other GPUs, where layers lie on them."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
        for i in range(torch.cuda.device_count()):
            # Asking one that holds nothing would begin a context there.
            if torch.cuda.memory_reserved(i):
                torch.cuda.synchronize(i)
    elif kind == "mps":
        torch.mps.synchronize()


# ---------------------------------------------------------------------------------------------- bandwidth


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second between memory and processor. A copy of N bytes counts 2N. `read` is reading alone, on CPU."""

    copy: float
    read: float | None = None

    @property
    def best(self) -> float:
        """What a utilisation is of: decoding reads and hardly writes."""
        return self.copy if self.read is None else self.read


def bandwidth(device: torch.device | str) -> Bandwidth:
    """The device's memory bandwidth with this process's threads, measured once a process."""
    return _bandwidth(str(torch.device(device)), torch.get_num_threads())


@functools.cache
def _bandwidth(device: str, threads: int) -> Bandwidth:
    kind = torch.device(device).type
    # Far beyond any cache, and on a GPU long enough for its launch not to count.
    n = (256 if kind == "cpu" else 1024) * MIB
    if kind == "cuda":
        n = min(n, torch.cuda.mem_get_info(device)[0] // 4 // MIB * MIB)
    source = torch.ones(n // 4, device=device)
    target = torch.empty_like(source)
    copy = 2 * n / _fastest(lambda: target.copy_(source), device)
    return Bandwidth(copy, n / _fastest(source.sum, device) if kind == "cpu" else None)


def _fastest(act: Callable[[], object], device: str, times: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that touches the memory."""
    seconds = []
    for _ in range(times + 1):
        synchronize(device)
        begun = time.perf_counter()
        act()
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])
