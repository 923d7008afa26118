"""What a workload costs in memory: all its requests, read and answered, measured as one.

Requests of one shape are the rows of one batch, packed or padded where their prompts differ in length. Those that begin
with a common prefix are forks of the state that read it once. Follow-ups are decoded after what was said before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kvfrontier.methods import state as states
from kvfrontier.runners.meter import difference, head_of
from kvfrontier.runners.peak import storage_bytes, track
from kvfrontier.runners.record import Memory
from kvfrontier.runners.workloads import Batch, Layout, Workload

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

#: Random token ids [rows, n].
Draw = Callable[[int, int], Tensor]


def measure_workload(
    open_session: Callable[[], Session],
    workload: Workload,
    draw: Draw,
    *,
    chunk: int | None,
    weights: nn.Module,
    device: torch.device,
    say: Callable[[str], None] = lambda _: None,
) -> Memory:
    """The sizes of a workload whose requests are all there at once, in bytes; `prefill` is the reading of prompts, or
    of common prefixes, and `decode` all that comes after.

    live counts a storage that forks share once; analytic is None where there are such, and what each request holds is
    compared with its closed form apart: where one is wrong, the status is "failed". A text may be longer than the
    model was made for, unless it has learned its positions: bytes are right there.
    """
    gc.collect()
    tensors = list(chain(weights.parameters(), weights.buffers()))
    texts: list[tuple[Batch, Session]] = []
    with (
        track(device, external=tensors, workspace=device.type == "cpu") as memory,
        ExitStack() as opened,
    ):
        memory.tell_apart(lambda: [session.state for _, session in texts], head_of(weights))
        for batch in workload.batches:
            say(f"{len(batch.prompts)} prompts of up to {max(batch.prompts)} tokens")
            session = opened.enter_context(open_session())
            if not session.bridge.learned_positions:
                session.bridge.max_positions = None
            texts.append((batch, session))
            _read(batch, session, draw, chunk, workload.layout)
        prefill_peak, prefill_parts = memory.peak, memory.peak_parts
        for batch, session in list(texts):
            texts.extend((batch, session.fork()) for _ in (batch.prompts[1:] if batch.shared else ()))
        sealed = states.measure([session.state for _, session in texts])
        memory.reset_peak()
        for batch, session in texts:
            say("decoding")
            _answer(batch, session, draw)
        decode_peak, decode_parts, resident = memory.peak, memory.peak_parts, memory.current
        live = states.measure([session.state for _, session in texts])
        closed = [session.footprint() for _, session in texts]
        wrong = next(
            (
                why
                for form, (_, session) in zip(closed, texts, strict=True)
                if (why := difference("at the end", form.held, session.state_bytes()))
            ),
            "",
        )
    alone = not any(batch.shared for batch in workload.batches)
    return Memory(
        status="failed" if wrong else "ok",
        reason=wrong,
        repetitions=1,
        prompt_tokens=sum(r.count * r.prompt for r in workload.requests),
        decoded_tokens=sum(r.count * (r.total - r.prompt) for r in workload.requests),
        chunk=chunk,
        analytic_payload=sum(form.held.payload for form in closed) if alone else None,
        analytic_slack=sum(form.held.slack for form in closed) if alone else None,
        live_payload=live.payload,
        live_slack=live.slack,
        live_host=live.host + live.host_slack,
        sealed_payload=sealed.payload,
        bytes_read=max(form.read for form in closed),
        weights=storage_bytes(tensors),
        peak=max(prefill_peak, decode_peak),
        prefill_peak=prefill_peak,
        decode_peak=decode_peak,
        resident=resident,
        prefill_parts=prefill_parts,
        decode_parts=decode_parts,
        shared_tokens=workload.shared,
        padding_tokens=workload.padding,
        workspace=memory.workspace,
        allocator_waste=memory.allocator_waste,
    )


def _read(batch: Batch, session: Session, draw: Draw, chunk: int | None, layout: Layout) -> None:
    """The prompts, or the prefix that they have in common."""
    rows, longest = len(batch.prompts), max(batch.prompts)
    if batch.shared:
        session.prefill(draw(1, batch.shared), chunk=chunk)
        return
    ids = draw(rows, longest)
    if min(batch.prompts) == longest:
        session.prefill(ids, chunk=chunk)
    elif layout == "packed":
        session.prefill_packed([row[:n] for row, n in zip(ids, batch.prompts, strict=True)], chunk=chunk)
    else:
        lengths = torch.tensor(batch.prompts, device=ids.device)
        mask = torch.arange(longest, device=ids.device) >= longest - lengths[:, None]
        session.prefill(ids, chunk=chunk, attention_mask=mask.long())


def _answer(batch: Batch, session: Session, draw: Draw) -> None:
    """What a request has of its own after the common prefix; then its turns."""
    rows = 1 if batch.shared else len(batch.prompts)
    if batch.shared:
        session.decode(draw(rows, batch.prompts[0] - batch.shared))
    for turn in range(batch.turns):
        if turn:
            session.decode(draw(rows, batch.follow))
        for _ in range(batch.new):
            session.decode(draw(rows, 1))
