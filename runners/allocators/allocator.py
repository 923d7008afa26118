"""What a policy is: memory of `capacity` tokens, and requests that take of it, grow and leave."""

from __future__ import annotations

from abc import ABC, abstractmethod

from kvfrontier.runners.allocators.requests import Request


class Allocator(ABC):
    """Memory of `capacity` tokens. A request is known by a number, and holds memory from `admit` to `release`.

    allocated    tokens for which memory is taken, whether they are there or not
    promised     of these, tokens that are there or will come, each once
    duplicated   tokens that requests have in common, each as often as it did not have to be stored
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.allocated = self.promised = self.duplicated = 0

    @abstractmethod
    def serves(self, request: Request) -> bool:
        """Whether the request, at its full length, fits where nothing else is."""

    @abstractmethod
    def admit(self, number: int, request: Request, tokens: int) -> bool:
        """Take memory for a request that begins with `tokens` tokens. False, and nothing taken, where it does not
        fit."""

    @abstractmethod
    def room(self, number: int) -> int:
        """Tokens that the request may have in the memory that it holds."""

    @abstractmethod
    def grow(self, number: int) -> bool:
        """Give more room. False where there is none."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Give back what the request holds, but not what others share with it."""
