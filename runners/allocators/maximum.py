"""The model's maximum for every request, as servers did that know nothing of a request's output (Orca, Max in Kwon et
al. 2023, arXiv:2309.06180)."""

from __future__ import annotations

from kvfrontier.runners.allocators.contiguous import Contiguous, Place
from kvfrontier.runners.allocators.requests import Request


class Maximum(Contiguous):
    """max_length: tokens, prompt and output, of the longest text that the server takes."""

    def __init__(self, capacity: int, place: Place, max_length: int):
        super().__init__(capacity, place)
        self.max_length = max_length

    def reserve(self, request: Request) -> int:
        return self.max_length
