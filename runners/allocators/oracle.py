"""Just what a request will have when it ends: a server that knows every output's length beforehand, which none does
(Orca, Oracle in Kwon et al. 2023, arXiv:2309.06180)."""

from __future__ import annotations

from kvfrontier.runners.allocators.contiguous import Contiguous
from kvfrontier.runners.allocators.requests import Request


class Oracle(Contiguous):
    """Still a stretch at once, so that most of it waits for tokens to come."""

    def reserve(self, request: Request) -> int:
        return request.total
