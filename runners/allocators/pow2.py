"""The prompt, and the output's length rounded up to a power of two: a server that guesses outputs to a factor of two
(Orca, Pow2 in Kwon et al. 2023, arXiv:2309.06180, section 6.1: an output of 25 gets 32)."""

from __future__ import annotations

from kvfrontier.runners.allocators.contiguous import Contiguous, Place
from kvfrontier.runners.allocators.requests import Request


class Pow2(Contiguous):
    """max_length: beyond it nothing is reserved, as a longer text cannot come."""

    def __init__(self, capacity: int, place: Place, max_length: int):
        super().__init__(capacity, place)
        self.max_length = max_length

    def reserve(self, request: Request) -> int:
        return min(request.prompt + power_of_two(request.output), self.max_length)


def power_of_two(n: int) -> int:
    """The smallest power of two that is no less than n >= 1."""
    return 1 << (n - 1).bit_length()
