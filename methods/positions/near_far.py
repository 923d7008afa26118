"""Positions that differ near and far: the distances of the `near` newest tokens are the text's own, those of older ones
are others. A query attends to the two ranges apart, and one softmax joins them by log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from kvfrontier.methods.axes import ENDLESS, Positions, Selection, Span, arange
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.positions.in_cache import InCachePositions


@dataclass(frozen=True)
class Far(Positions):
    """Slots in groups of `group`, the query moved back so that groups follow on the `near` distances before them."""

    near: int
    group: int

    unrotated: ClassVar[bool] = True
    at_use: ClassVar[bool] = True

    def keys(self, k: Tensor, slot: int, layer: Layer) -> Tensor:
        if layer.rope is None:
            return k
        return layer.rope.apply(k, (arange(slot, slot + k.shape[2], k) // self.group)[None])

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        assert q_pre is not None
        if layer.rope is None:
            return q_pre
        return layer.rope.apply(q_pre, (slots // self.group + self.near - self.near // self.group)[None])


@dataclass(frozen=True)
class NearFar(InCachePositions):
    """Slots as positions for the `near` tokens up to a query's own, `far` for those before. A subclass gives both.
    Where a selection scores keys, it sees them at their slots."""

    splits: ClassVar[bool] = True

    @property
    def near(self) -> int:
        raise NotImplementedError

    def far(self) -> Positions:
        raise NotImplementedError

    def room(self, n: int, selection: Selection, layer: Layer) -> int:
        # A piece ends where a range becomes far: until then it is near to all queries, then far to all of them; where
        # only a part of it is far, queries go alone.
        if n < self.near:
            return self.near - n
        room = ENDLESS
        for span in selection.spans(n, 1):
            oldest, newest = n - span.begin, n - span.end + 1
            if span.last:
                room = 1 if oldest < self.near else room
            elif oldest < self.near:
                room = min(room, self.near - oldest)
            elif newest < self.near:
                room = 1
        return room

    def views(self, span: Span, S: int, T: int) -> list[tuple[Span, Positions]]:
        first = S + 1 - self.near  # the first slot that is near to the first query
        if span.last:
            window = self.near if span.window is None else min(span.window, self.near)
            near = replace(span, begin=max(span.begin, first), window=window)
            # Of what is far, the last query sees all, and each before it one slot less.
            older = None if span.window is None else max(0, span.window - self.near)
            begin = span.begin if older is None else max(span.begin, S + 1 - self.near - older)
            far = Span(begin, span.end - self.near if older != 0 else begin, window=older, capped=span.capped)
        else:
            near, far = replace(span, begin=max(span.begin, first)), replace(span, end=min(span.end, first))
        return [(view, at) for view, at in ((near, self), (far, self.far())) if view.begin < view.end]
