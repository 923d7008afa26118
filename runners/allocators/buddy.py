"""The buddy system (Knowlton 1965): stretches are powers of two, halved until they fit, and joined with their other
half when both are free.

A memory that is no power of two is a row of trees, the largest first, so that every stretch of size s lies at a
multiple of s, and its buddy at the address with the bit s flipped.
"""

from __future__ import annotations

from collections import defaultdict

from kvfrontier.runners.allocators.pow2 import power_of_two


class Buddy:
    """Addresses 0 to capacity - 1, of which the smallest free stretch that fits is taken, at the lowest address."""

    def __init__(self, capacity: int):
        self.longest = 1 << (capacity.bit_length() - 1) if capacity else 0
        self.taken: dict[int, int] = {}
        #: Addresses of free stretches by their size.
        self.free: defaultdict[int, set[int]] = defaultdict(set)
        address = 0
        for bit in reversed(range(capacity.bit_length())):
            if capacity >> bit & 1:
                self.free[1 << bit].add(address)
                address += 1 << bit

    def rounded(self, length: int) -> int:
        return power_of_two(length)

    def take(self, length: int) -> int | None:
        wanted = size = power_of_two(length)
        while size <= self.longest and not self.free[size]:
            size *= 2
        if size > self.longest:
            return None
        address = min(self.free[size])
        self.free[size].remove(address)
        while size > wanted:
            size //= 2
            self.free[size].add(address + size)
        self.taken[address] = wanted
        return address

    def give(self, address: int) -> None:
        if address not in self.taken:
            raise ValueError(f"nothing is taken at {address}; it was given back before, or never taken")
        size = self.taken.pop(address)
        # A whole tree has no buddy: after it come smaller trees, so nothing of its size is free there.
        while address ^ size in self.free[size]:
            self.free[size].remove(address ^ size)
            address, size = address & ~size, size * 2
        self.free[size].add(address)
