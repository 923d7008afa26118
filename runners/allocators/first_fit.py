"""First fit: the lowest hole that is long enough, of which just what is asked for is taken."""

from __future__ import annotations

from bisect import bisect_left


class FirstFit:
    """Addresses 0 to capacity - 1, and the holes among them in order; two that touch become one."""

    def __init__(self, capacity: int):
        self.longest = capacity
        self.taken: dict[int, int] = {}
        #: (address, length) of each hole.
        self.holes: list[tuple[int, int]] = [(0, capacity)] if capacity else []

    def rounded(self, length: int) -> int:
        return length

    def take(self, length: int) -> int | None:
        for i, (address, hole) in enumerate(self.holes):
            if hole >= length:
                self.holes[i : i + 1] = [(address + length, hole - length)] if hole > length else []
                self.taken[address] = length
                return address
        return None

    def give(self, address: int) -> None:
        if address not in self.taken:
            raise ValueError(f"nothing is taken at {address}; it was given back before, or never taken")
        begin, end = address, address + self.taken.pop(address)
        first = last = bisect_left(self.holes, (begin, 0))
        if first and sum(self.holes[first - 1]) == begin:
            first -= 1
            begin = self.holes[first][0]
        if last < len(self.holes) and self.holes[last][0] == end:
            end = sum(self.holes[last])
            last += 1
        self.holes[first:last] = [(begin, end - begin)]
