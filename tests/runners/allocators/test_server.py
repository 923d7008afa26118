"""Requests over time: the same as step by step, and nothing of memory or work lost."""

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfrontier.runners.allocators.buddy import Buddy
from kvfrontier.runners.allocators.first_fit import FirstFit
from kvfrontier.runners.allocators.maximum import Maximum
from kvfrontier.runners.allocators.oracle import Oracle
from kvfrontier.runners.allocators.paged import Paged
from kvfrontier.runners.allocators.pow2 import Pow2
from kvfrontier.runners.allocators.requests import Request
from kvfrontier.runners.allocators.server import Parts, fit_at_once, serve

LONGEST = 24
POLICIES = {
    "max": lambda capacity: Maximum(capacity, Buddy(capacity), LONGEST),
    "pow2": lambda capacity: Pow2(capacity, Buddy(capacity), LONGEST),
    "oracle": lambda capacity: Oracle(capacity, Buddy(capacity)),
    "oracle, first fit": lambda capacity: Oracle(capacity, FirstFit(capacity)),
    "paged": lambda capacity: Paged(capacity, 4, watermark=0),
    "paged, watermark": lambda capacity: Paged(capacity, 3, watermark=0.2),
}
TRAFFIC = st.lists(
    st.builds(Request, prompt=st.integers(1, 14), output=st.integers(1, 14), arrival=st.integers(0, 30)), max_size=12
)
SHARED = st.lists(
    st.builds(
        lambda prompt, output, arrival, prefix: Request(prompt, output, arrival, "a", min(prefix, prompt)),
        prompt=st.integers(1, 14), output=st.integers(1, 10), arrival=st.integers(0, 30), prefix=st.integers(0, 14),
    ), max_size=12,
)  # fmt: skip


class StepByStep:
    """A server that goes through every step and every request, and counts what each of them has."""

    def __init__(self, allocator, requests: list[Request]):
        self.allocator = allocator
        self.requests = sorted(requests, key=lambda r: r.arrival)
        self.has = {n: r.prompt + 1 for n, r in enumerate(self.requests)}
        self.waiting, self.running = [], []
        self.whole, self.pressed, self.preempted, self.largest, self.t = Parts(), Parts(), 0, 0, 0

    def run(self):
        # What can never fit is passed over.
        coming = [n for n, r in enumerate(self.requests) if r.total <= LONGEST and self.allocator.serves(r)]
        self.last = max((r.arrival for r in self.requests), default=0)
        while coming or self.waiting or self.running:
            for n in [n for n in self.running if self.has[n] > self.requests[n].total]:
                self.leave(n)
            for n in list(self.running):
                while n in self.running and self.has[n] > self.allocator.room(n):
                    if not self.allocator.grow(n):
                        self.waiting.insert(0, newest := max(self.running))
                        self.leave(newest)
                        self.preempted += 1
            self.waiting += [n for n in coming if self.requests[n].arrival <= self.t]
            coming = [n for n in coming if self.requests[n].arrival > self.t]
            while self.waiting and self.allocator.admit(n := self.waiting[0], self.requests[n], self.has[n]):
                self.running.append(self.waiting.pop(0))
            self.largest = max(self.largest, len(self.running))
            if not (coming or self.waiting or self.running):
                break
            self.count()
            for n in self.running:
                self.has[n] += 1
            self.t += 1
        return self

    def leave(self, n):
        self.running.remove(n)
        self.allocator.release(n)

    def stretches(self):
        """(tokens there, tokens that will be there, room) of each stretch or block, each once."""
        if not isinstance(self.allocator, Paged):
            held = [(n, self.requests[n]) for n in self.running]
            return [(self.has[n], r.total, self.allocator.place.rounded(self.allocator.reserve(r))) for n, r in held]
        b, blocks = self.allocator.block, {}
        for n in self.running:
            r = self.requests[n]
            for i in range(self.allocator.room(n) // b):
                name = (r.group, i) if self.allocator.sharing and (i + 1) * b <= r.prefix else (n, "own", i)
                blocks[name] = (min(b, max(0, self.has[n] - i * b)), min(b, r.total - i * b), b)
        return list(blocks.values())

    def count(self):
        there, will, room = (sum(x) for x in zip((0, 0, 0), *self.stretches(), strict=True))
        free = self.allocator.capacity - room
        parts = Parts(there, will - there, room - will, *((free, 0) if self.waiting else (0, free)))
        self.whole += parts
        if self.waiting:
            self.pressed += parts


@pytest.mark.parametrize("policy", POLICIES)
@given(st.integers(1, 80), st.data())
@settings(max_examples=40, deadline=None)
def test_events_come_to_the_same_as_every_step(policy, capacity, data):
    requests = data.draw(SHARED if "paged" in policy else TRAFFIC)
    found = serve(POLICIES[policy](capacity), requests, LONGEST)
    expected = StepByStep(POLICIES[policy](capacity), requests).run()
    assert found.pressed == expected.pressed
    # A request that can never fit makes time pass until it comes, and no more.
    rest = found.steps - expected.t
    assert rest == max(0, expected.last - expected.t)
    expected.whole.idle += rest * capacity
    assert found.whole == expected.whole
    assert found.preempted == expected.preempted
    assert found.largest_batch == expected.largest


@pytest.mark.parametrize("policy", POLICIES)
@given(st.integers(1, 80), TRAFFIC)
@settings(max_examples=40, deadline=None)
def test_memory_and_work_are_conserved(policy, capacity, requests):
    allocator = POLICIES[policy](capacity)
    served = serve(allocator, requests, LONGEST)
    assert served.whole.total == capacity * served.steps
    assert served.pressed.total == capacity * served.pressed_steps
    assert min(astuple(served.whole)) >= 0
    assert sum(served.shares().values()) == pytest.approx(1, abs=1e-12)
    assert served.finished + served.rejected == len(requests)
    # Every token of the prompt is there in each step, and one of the output more in each: whatever the policy.
    fits = [r for r in requests if r.total <= LONGEST and allocator.serves(r)]
    assert served.finished == len(fits)
    assert served.whole.tokens == sum(r.output * r.prompt + r.output * (r.output + 1) // 2 for r in fits)
    assert served.batch == sum(r.output for r in fits)
    # All is given back.
    assert (allocator.allocated, allocator.promised, allocator.duplicated) == (0, 0, 0)


@given(st.integers(1, 300), TRAFFIC)
@settings(max_examples=100, deadline=None)
def test_who_knows_more_holds_no_fewer_at_once(capacity, requests):
    """Of requests that any of them could serve."""
    requests = [r for r in requests if all(make(capacity).serves(r) for make in POLICIES.values())]
    policies = ("max", "pow2", "oracle", "oracle, first fit")
    fit = [fit_at_once(POLICIES[name](capacity), requests, LONGEST) for name in policies]
    fit.append(fit_at_once(Paged(capacity, 1, watermark=0), requests, LONGEST))
    assert fit == sorted(fit)


def test_one_request_by_hand():
    """Three steps with 3, 4 and 5 tokens, of 8 that are reserved in a memory of 10."""
    served = serve(Maximum(10, FirstFit(10), 8), [Request(2, 3)], 8)
    assert served.whole == Parts(tokens=12, reserved=3, internal=9, external=0, idle=6)
    assert (served.steps, served.finished, served.queued, served.largest_batch) == (3, 1, 0, 1)
    assert not served.under_pressure


def test_two_that_do_not_fit_together_by_hand():
    """Stretches of 4 in a memory of 7: the second waits 2 steps, in which the 3 tokens left are of no use."""
    served = serve(Oracle(7, FirstFit(7)), [Request(2, 2), Request(1, 3)], 8)
    assert served.pressed == Parts(tokens=3 + 4, reserved=1, internal=0, external=2 * 3, idle=0)
    assert (served.steps, served.queued, served.largest_batch) == (5, 1, 1)


def test_preemption_by_hand():
    """Three blocks of 2. Both begin with 2 tokens in one block; at 3 tokens the first takes the last block, the second
    finds none and gives way. It comes back with its 3 tokens when the first has left."""
    requests = [Request(1, 3), Request(1, 3)]
    served = serve(Paged(6, 2, watermark=0), requests, 8)
    assert served.preempted == 1
    # Steps 1 (2 + 2 tokens), 2 and 3 (the first: 3, 4), 4 and 5 (the second: 3, 4).
    assert served.steps == 5
    assert served.pressed == Parts(tokens=3 + 4, reserved=1, external=2 * 2)
    assert served.finished == 2
    assert served.queued == 0


def test_what_can_never_fit_is_rejected():
    served = serve(Paged(100, 4), [Request(50, 51), Request(10, 15), Request(3, 3)], 20)
    assert (served.rejected, served.finished) == (2, 1)


def test_32_of_500_and_1_of_16000_hold_the_same_tokens_and_are_allocated_differently():
    """The seed's question, in a memory for 16,384 tokens."""
    many, one = [Request(499, 1)] * 32, [Request(15_999, 1)]

    def allocated(requests, allocator):
        served = serve(allocator, requests, 16_384)
        return served.largest_batch, served.whole.tokens

    assert allocated(many, Paged(16_384, 16, watermark=0)) == (32, 16_000)
    assert allocated(one, Paged(16_384, 16, watermark=0)) == (1, 16_000)
    # Where each is given the maximum, the short ones go one by one.
    assert allocated(many, Maximum(16_384, Buddy(16_384), 16_384)) == (1, 16_000)


@pytest.mark.parametrize(("output", "reserved"), [(1, 11), (25, 42), (32, 42), (33, 50)])
def test_pow2_reserves_the_output_to_a_power_of_two_and_no_more_than_the_longest(output, reserved):
    """The paper's own example: an output of 25 gets 32."""
    assert Pow2(100, Buddy(100), 50).reserve(Request(10, output)) == reserved
