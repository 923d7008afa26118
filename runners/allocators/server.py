"""Requests over time on one memory, first come, first served, and what the memory held meanwhile.

A request is admitted with its prompt, adds one token a step, the first at once, and leaves when its output is complete:
iteration-level scheduling (Orca, Yu et al. 2022). The first that does not fit makes all others wait. Where one that
runs needs room and there is none, the newest is preempted: it gives all back, waits at the head of the queue, and
begins again with all the tokens that it had (recomputation: Kwon et al. 2023, section 4.5).

Between two events everything is linear in time, so that sums over steps are exact, in whole numbers.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from kvfrontier.runners.allocators.allocator import Allocator
from kvfrontier.runners.allocators.requests import Request


@dataclass
class Parts:
    """Memory by what is in it, in tokens times steps.

    tokens     keys and values of tokens that are there
    reserved   taken for tokens that will come
    internal   taken, and never filled: reserved beyond what comes, or rounded up
    external   free, while a request waits that does not fit
    idle       free, and nobody waits
    """

    tokens: int = 0
    reserved: int = 0
    internal: int = 0
    external: int = 0
    idle: int = 0

    def __iadd__(self, other: Parts) -> Parts:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @property
    def total(self) -> int:
        return self.tokens + self.reserved + self.internal + self.external + self.idle

    def shares(self) -> dict[str, float]:
        """Each part over the total; they sum to 1. All idle where no time has passed."""
        if not self.total:
            return {**dict.fromkeys(vars(self), 0.0), "idle": 1.0}
        return {name: value / self.total for name, value in vars(self).items()}


@dataclass
class Served:
    """What came of the requests.

    whole      the parts over all steps
    pressed    over the steps at which a request waited: there, memory is what bounds the server
    steps      until the last request left
    pressed_steps   of these, with a request waiting
    batch      requests that ran, summed over steps
    largest_batch   most requests that ran at once
    finished, queued, rejected   requests that left complete, that had to wait, that could never fit
    preempted  times that a running request had to give all back
    """

    whole: Parts = field(default_factory=Parts)
    pressed: Parts = field(default_factory=Parts)
    steps: int = 0
    pressed_steps: int = 0
    batch: int = 0
    largest_batch: int = 0
    finished: int = 0
    queued: int = 0
    rejected: int = 0
    preempted: int = 0

    @property
    def mean_batch(self) -> float:
        """Requests that ran, a step."""
        return self.batch / self.steps if self.steps else 0.0

    @property
    def under_pressure(self) -> bool:
        """Whether the shares are those of the steps with a request waiting; else nobody ever waited."""
        return self.pressed_steps > 0

    def shares(self) -> dict[str, float]:
        """The parts' shares of memory, over the steps with a request waiting, or over all where there is none."""
        return (self.pressed if self.under_pressure else self.whole).shares()


class _Event(IntEnum):
    """What happens at one time, in this order: room is given back before it is asked for."""

    LEAVES = 0
    GROWS = 1
    COMES = 2


@dataclass(frozen=True)
class _Running:
    """The time at which a request leaves, and the count of its admission: events of an earlier one are void."""

    leaves: int
    admission: int


def serve(allocator: Allocator, requests: Sequence[Request], max_length: int) -> Served:
    """Serve all requests, in the order of their arrival. One that is longer than `max_length` tokens, or than the
    allocator can ever hold, is rejected."""
    return _Server(allocator, requests, max_length).run()


def fit_at_once(allocator: Allocator, requests: Sequence[Request], max_length: int) -> int:
    """How many of the first requests an empty allocator holds at their full lengths, all at once; those that can never
    fit are passed over."""
    held = 0
    for number, request in enumerate(_in_order(requests)):
        if request.total <= max_length and allocator.serves(request):
            if not allocator.admit(number, request, request.total):
                break
            held += 1
    return held


def _in_order(requests: Sequence[Request]) -> list[Request]:
    return sorted(requests, key=lambda request: request.arrival)


class _Server:
    def __init__(self, allocator: Allocator, requests: Sequence[Request], max_length: int):
        self.allocator, self.requests, self.max_length = allocator, _in_order(requests), max_length
        self.result = Served()
        self.now = 0
        #: Tokens of all who run, those in common each time, as they are in the step that begins now.
        self.tokens = 0
        self.waiting: deque[int] = deque()
        #: In the order of arrival: whoever is preempted is the newest, and comes back before any that is newer.
        self.running: dict[int, _Running] = {}
        #: Tokens with which a request begins: its prompt and the first of its output, or what it had.
        self.begins = {number: request.prompt + 1 for number, request in enumerate(self.requests)}
        self.admissions = 0
        self.events: list[tuple[int, _Event, int, int]] = [
            (request.arrival, _Event.COMES, number, 0) for number, request in enumerate(self.requests)
        ]

    def run(self) -> Served:
        while self.events:
            now = self.events[0][0]
            self._pass_time(now)
            while self.events and self.events[0][0] == now:
                _, event, number, admission = heapq.heappop(self.events)
                if event is _Event.COMES:
                    self._come(number)
                elif number in self.running and self.running[number].admission == admission:
                    self._leave(number) if event is _Event.LEAVES else self._grow(number)
            self._admit()
            self.result.largest_batch = max(self.result.largest_batch, len(self.running))
        self.result.steps = self.now
        return self.result

    def _pass_time(self, until: int) -> None:
        """Sum the parts over the steps from now on; in each, every running request has one token more."""
        steps, run, allocator = until - self.now, len(self.running), self.allocator
        tokens = steps * (self.tokens - allocator.duplicated) + run * (steps * (steps - 1) // 2)
        free = steps * (allocator.capacity - allocator.allocated)
        now = Parts(
            tokens=tokens,
            reserved=steps * allocator.promised - tokens,
            internal=steps * (allocator.allocated - allocator.promised),
            external=free if self.waiting else 0,
            idle=0 if self.waiting else free,
        )
        self.result.whole += now
        if self.waiting:
            self.result.pressed += now
            self.result.pressed_steps += steps
        self.result.batch += steps * run
        self.tokens += steps * run
        self.now = until

    def _come(self, number: int) -> None:
        request = self.requests[number]
        if request.total > self.max_length or not self.allocator.serves(request):
            self.result.rejected += 1
        else:
            self.waiting.append(number)

    def _admit(self) -> None:
        while self.waiting:
            number = self.waiting[0]
            request, tokens = self.requests[number], self.begins[number]
            if not self.allocator.admit(number, request, tokens):
                return
            self.waiting.popleft()
            self.admissions += 1
            # Whoever comes back after a preemption has more than at first.
            if self.now > request.arrival and tokens == request.prompt + 1:
                self.result.queued += 1
            # The step that has all its tokens is its last.
            leaves = self.now + request.total - tokens + 1
            self.running[number] = _Running(leaves, self.admissions)
            self.tokens += tokens
            self._plan(number, _Event.LEAVES, leaves)
            self._plan_growth(number)

    def _plan(self, number: int, event: _Event, time: int) -> None:
        heapq.heappush(self.events, (time, event, number, self.running[number].admission))

    def _plan_growth(self, number: int) -> None:
        room, request = self.allocator.room(number), self.requests[number]
        if room < request.total:
            self._plan(number, _Event.GROWS, self.now + room - self._has(number) + 1)

    def _has(self, number: int) -> int:
        """Tokens of a running request in the step that begins now."""
        return self.requests[number].total + 1 - (self.running[number].leaves - self.now)

    def _grow(self, number: int) -> None:
        while not self.allocator.grow(number):
            newest = next(reversed(self.running))
            self._preempt(newest)
            if newest == number:
                return
        self._plan_growth(number)

    def _preempt(self, number: int) -> None:
        self.begins[number] = self._has(number)
        self._go(number)
        self.waiting.appendleft(number)
        self.result.preempted += 1

    def _leave(self, number: int) -> None:
        self._go(number)
        self.result.finished += 1

    def _go(self, number: int) -> None:
        self.tokens -= self._has(number)
        self.allocator.release(number)
        del self.running[number]
