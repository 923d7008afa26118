"""What methods that drive the model share: the layers hold keys and values of what the model reads now, all of it is
forgotten at once, and vectors or tokens that are carried on are read in its place.

Positions count from 0 in what is read now, so that a text of any length is read at positions that the model knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kvfrontier.methods.axes import Selection, arange
from kvfrontier.methods.cached import Cached, CachedState
from kvfrontier.methods.contract import Footprint, Method, Run, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import called
from kvfrontier.methods.state import Buf, State, capacity

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

#: Standard deviation of embeddings before training, as transformers initializes a model's.
INIT = 0.02


@dataclass(frozen=True)
class Whole(Selection):
    """All of a segment, which has an end."""

    bounded: ClassVar[bool] = True


class LearnedTokens(nn.Module):
    """Embeddings [n, hidden] of tokens that are in no vocabulary."""

    def __init__(self, n: int, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, hidden_size(layer)) * INIT)


def hidden_size(layer: Layer) -> int:
    """Width of the model's embeddings; where a layer stands alone, that of its heads together."""
    return layer.hidden or layer.hq * layer.d


def learned(n: int, layer: Layer, batch: int) -> Tensor:
    """The first layer's learned tokens [B, n, hidden]; zeros where there is no model to learn with."""
    if isinstance(layer.params, LearnedTokens):
        return layer.params.weight.to(layer.dtype).expand(batch, -1, -1)
    return torch.zeros(batch, n, hidden_size(layer), dtype=layer.dtype, device=layer.device)


@dataclass
class Reading(State):
    """cache: keys and values of what is read now; carried [B, n, hidden]: vectors from what was read before, held once,
    with the first layer."""

    cache: CachedState
    carried: Buf | None = None


@dataclass(frozen=True)
class Reader(Method):
    """Base of methods that read a text in an order of their own, or forget it. A subclass gives `footprint`."""

    rows_apart: ClassVar[bool] = True

    def cache(self) -> Cached:
        """How a layer holds what is read now."""
        return Cached(Whole() if self.bounded else Selection())

    def validate(self, layer: Layer) -> None:
        if layer.window is not None:
            raise ValueError(
                f"{called(self)} forgets what it has read, and layer {layer.index} keeps a window of its own; "
                "choose a model of full-attention layers"
            )

    def init_state(self, layer: Layer, batch: int) -> Reading:
        return Reading(self.cache().init_state(layer, batch))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        return self.cache().attend(q, k, v, state.cache, layer, step)

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        return self.read(run, session, ids)

    def read(self, run: Run, session: Session, x: Tensor, **options: Any) -> Tensor:
        """Read ids [B, T] or embeddings [B, T, hidden] after what was read since the model last forgot."""
        n, limit = session.states[0].cache.seen, session.bridge.max_positions
        if session.bridge.recurrent:
            if session.alone:
                raise ValueError(
                    f"{called(self)} reads the rows of a padded batch one by one, and this model's recurrent layers "
                    "hold all of them together; give the rows as batches of their own"
                )
            options["fresh"] = n == 0  # what is forgotten, the model's own states forget too
        if limit is not None and n + x.shape[1] > limit:
            raise ValueError(
                f"{called(self)} reads {n + x.shape[1]} tokens together, and the model has {limit} positions; "
                "ask for less text, or change the method's parameters"
            )
        options["ids" if x.dim() == 2 else "embeds"] = x
        return run(positions=arange(n, n + x.shape[1], x)[None].expand(len(x), -1), **options)

    def forget(self, session: Session) -> None:
        """Nothing is read now."""
        batch = self.batch(session)
        for layer, state in zip(session.layers, session.states, strict=True):
            state.cache = self.cache().init_state(layer, batch)

    @staticmethod
    def batch(session: Session) -> int:
        """Rows of what is read now."""
        return len(session.states[0].cache.store.k.x)

    def holding(self, layer: Layer, batch: int, n: int) -> Footprint:
        """Cost of n tokens that are read now."""
        return self.cache().footprint(layer, batch, n, sealed=False)


def vectors(layer: Layer, batch: int, n: int, exact: bool) -> Footprint:
    """Cost of n carried vectors, which no decoded token touches."""
    one = hidden_size(layer) * layer.dtype.itemsize
    return Footprint.of(batch * n * one, 0 if exact else batch * (capacity(n) - n) * one, read=0)


@dataclass(frozen=True)
class Segments(Reader):
    """Base of methods that read a text in segments and carry vectors from one to the next: those before it are read
    first; when `segment` tokens are full, tokens that ask for vectors are read, and what the model makes of them is
    carried. A subclass names its `segment`, and gives `asking` and `carry`."""

    @property
    def length(self) -> int:
        """Tokens of a segment."""
        raise NotImplementedError

    def asking(self, session: Session) -> Tensor:
        """Embeddings [B, m, hidden] that are read when a segment is full."""
        raise NotImplementedError

    def carry(self, carried: Buf, made: Tensor) -> None:
        """Take in what the model made of them, its last hidden states."""
        raise NotImplementedError

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        first: Reading = session.states[0]
        assert first.carried is not None
        outputs: list[Tensor] = []
        a = 0
        while a < ids.shape[1]:
            if first.cache.seen == 0 and first.carried.n:
                self.read(run, session, first.carried.view(), hidden=True)
            b = min(ids.shape[1], a + self.length - (first.cache.seen - first.carried.n))
            outputs.append(self.read(run, session, ids[:, a:b]))
            if first.cache.seen - first.carried.n == self.length:
                made = self.read(run, session, self.asking(session), hidden=True)
                self.forget(session)
                self.carry(first.carried, made)
            a = b
        return torch.cat(outputs, 1)
