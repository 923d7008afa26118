"""One contiguous stretch a request, reserved when it is admitted and kept until it ends.

How long a stretch is asked for is the policy (maximum.py, pow2.py, oracle.py); where it lies, and to what it is
rounded, is the place's (buddy.py, first_fit.py).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from kvfrontier.runners.allocators.allocator import Allocator
from kvfrontier.runners.allocators.requests import Request


class Place(Protocol):
    """An address space that gives out stretches."""

    @property
    def longest(self) -> int:
        """The longest stretch there is when all is free."""
        ...

    def rounded(self, length: int) -> int:
        """What is taken for a stretch of this length."""
        ...

    def take(self, length: int) -> int | None:
        """The address of a free stretch, which is then taken; None where none is long enough."""
        ...

    def give(self, address: int) -> None:
        """Free the stretch that was taken at this address. Raises ValueError where none was."""
        ...


class Contiguous(Allocator):
    """Reserves `reserve(request)` tokens for a request, which hold all that it will ever have."""

    def __init__(self, capacity: int, place: Place):
        super().__init__(capacity)
        self.place = place
        self.held: dict[int, tuple[int, Request]] = {}

    @abstractmethod
    def reserve(self, request: Request) -> int:
        """Tokens that are asked for, at least the request's total."""

    def serves(self, request: Request) -> bool:
        return self.reserve(request) <= self.place.longest

    def admit(self, number: int, request: Request, tokens: int) -> bool:
        address = self.place.take(self.reserve(request))
        if address is None:
            return False
        self.held[number] = address, request
        self.allocated += self.place.rounded(self.reserve(request))
        self.promised += request.total
        return True

    def room(self, number: int) -> int:
        return self.held[number][1].total

    def grow(self, number: int) -> bool:
        """Never asked for: the stretch holds all."""
        return False

    def release(self, number: int) -> None:
        address, request = self.held.pop(number)
        self.place.give(address)
        self.allocated -= self.place.rounded(self.reserve(request))
        self.promised -= request.total
