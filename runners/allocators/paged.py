"""Blocks of a few tokens, taken as tokens come and lying anywhere (PagedAttention, Kwon et al. 2023, arXiv:2309.06180,
sections 4.3 and 4.4).

Requests of one group that run at the same time share the blocks of their common prefix, counted by reference. A block
that is written to must be one's own: the block in which a prefix ends is copied by the first token that follows, which
comes at once, so that only full blocks stay shared, as in methods/stores/paged.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvfrontier.runners.allocators.allocator import Allocator
from kvfrontier.runners.allocators.requests import Request


class Blocks:
    """`count` blocks, each free or owned by as many as `owners` says."""

    def __init__(self, count: int):
        self.count = count
        self.free = list(reversed(range(count)))
        self.owners: dict[int, int] = {}

    def take(self) -> int:
        """A free block, with one owner. There must be one."""
        block = self.free.pop()
        self.owners[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more owner of a block that has some."""
        self.owners[block] += 1

    def give(self, block: int) -> bool:
        """One owner less; whether the block is free now. Raises ValueError where it was free before."""
        if block not in self.owners:
            raise ValueError(f"block {block} is free; it was given back before, or never taken")
        self.owners[block] -= 1
        if self.owners[block]:
            return False
        del self.owners[block]
        self.free.append(block)
        return True


@dataclass
class Held:
    """What a request holds: its block table, in the order of its tokens."""

    request: Request
    table: list[int]


class Paged(Allocator):
    """Blocks of `block` tokens.

    watermark   share of the blocks that an admission leaves free, so that those who run can grow (vLLM's is 0.01)
    sharing     whether common prefixes are shared
    """

    def __init__(self, capacity: int, block: int = 16, watermark: float = 0.01, sharing: bool = True):
        super().__init__(capacity)
        self.block, self.sharing = block, sharing
        self.blocks = Blocks(capacity // block)
        self.kept_free = int(watermark * self.blocks.count)
        self.held: dict[int, Held] = {}
        #: The block that holds the i-th full block of a group's prefix, while someone has it; and the way back.
        self.prefixes: dict[tuple[str, int], int] = {}
        self.names: dict[int, tuple[str, int]] = {}

    def serves(self, request: Request) -> bool:
        return self._needed(request.total) <= self.blocks.count

    def admit(self, number: int, request: Request, tokens: int) -> bool:
        shared = self._shared(request)
        new = self._needed(tokens) - len(shared)
        # Where nobody runs, nobody can grow.
        if new > len(self.blocks.free) - (self.kept_free if self.held else 0):
            return False
        for block in shared:
            self.blocks.share(block)
        held = Held(request, shared + [self.blocks.take() for _ in range(new)])
        for i in range(len(shared), self._full(request)):
            name = self._name(request, i)
            self.prefixes[name], self.names[held.table[i]] = held.table[i], name
        self.held[number] = held
        self.duplicated += len(shared) * self.block
        self.allocated += new * self.block
        self.promised += self._filled(held) - len(shared) * self.block
        return True

    def room(self, number: int) -> int:
        return len(self.held[number].table) * self.block

    def grow(self, number: int) -> bool:
        if not self.blocks.free:
            return False
        held = self.held[number]
        before = self._filled(held)
        held.table.append(self.blocks.take())
        self.allocated += self.block
        self.promised += self._filled(held) - before
        return True

    def release(self, number: int) -> None:
        held = self.held.pop(number)
        stay = 0
        # The first blocks are found first when they are taken again.
        for block in reversed(held.table):
            if not self.blocks.give(block):
                stay += 1
            elif block in self.names:
                del self.prefixes[self.names.pop(block)]
        self.duplicated -= stay * self.block
        self.allocated -= (len(held.table) - stay) * self.block
        self.promised -= self._filled(held) - stay * self.block

    def _needed(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def _filled(self, held: Held) -> int:
        """Tokens that are or will be in the blocks that a request holds."""
        return min(len(held.table) * self.block, held.request.total)

    def _full(self, request: Request) -> int:
        """Blocks that the request's prefix fills."""
        return request.prefix // self.block if self.sharing else 0

    def _name(self, request: Request, i: int) -> tuple[str, int]:
        return request.group, i

    def _shared(self, request: Request) -> list[int]:
        """Blocks of its prefix that someone holds. Whoever holds one holds all before it."""
        names = [self._name(request, i) for i in range(self._full(request))]
        return [self.prefixes[name] for name in names if name in self.prefixes]
