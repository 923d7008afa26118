"""Rows of unequal length in one batch: each row's attention runs apart, with a state of its own.

A mask would not do. A method that evicts moves tokens to other slots, and the padding of a row would then stand where
another row's tokens are. Rows apart are exact for every method; all else of the model stays batched.

A prompt may come padded on the left, or packed: rows one after the other in one sequence, which works on no padding.
What is held is the same, and afterwards both go on alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.contract import Footprint, Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import State


@dataclass
class Rows(State):
    """rows: one state of the inner method a row; seen: tokens of a row before this call, padding included."""

    rows: list[Any] = field(default_factory=list)
    seen: int = 0


@dataclass(frozen=True)
class Piece:
    """What a packed forward holds of one row: tokens `start` to `end` of it, without padding."""

    row: int
    start: int
    end: int

    @property
    def tokens(self) -> int:
        return self.end - self.start


def pack(lengths: Sequence[int], chunk: int | None) -> list[list[Piece]]:
    """The pieces of each forward: rows one after the other, `chunk` tokens a forward (None: all at once)."""
    forwards: list[list[Piece]] = [[]]
    room = chunk or sum(lengths)
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            if not room:
                forwards.append([])
                room = chunk or 0
            end = min(length, start + room)
            forwards[-1].append(Piece(row, start, end))
            room -= end - start
            start = end
    return forwards


@dataclass(frozen=True)
class PerRow(Method):
    """`inner` over each row of a left-padded batch. pads: padding of each row, in tokens."""

    inner: Method
    pads: tuple[int, ...]

    def init_state(self, layer: Layer, batch: int) -> Rows:
        return Rows([self.inner.init_state(layer, 1) for _ in range(batch)])

    def latent(self, a: Tensor, b: Tensor, state: Any, layer: Layer) -> tuple[Tensor, Tensor]:
        for r, row in enumerate(state.rows):
            p = max(0, self.pads[r] - state.seen)
            if p < a.shape[2]:
                got, _ = self.inner.latent(a[r : r + 1, :, p:], b[r : r + 1, :, p:], row, layer)
                if got.shape[2] != a.shape[2] - p:
                    raise ValueError(
                        f"{type(self.inner).__name__} lets the model expand all latents, and rows of unequal length "
                        "have other numbers of them; give the rows one by one"
                    )
        return a, b

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        T = q.shape[2]
        if step.phase != "score":
            state.seen = step.start + T
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for b, row in enumerate(state.rows):
            p = max(0, self.pads[b] - step.start)  # padding of this row inside this call
            if p >= T:
                continue

            def pre(b: int = b, p: int = p) -> tuple[Tensor, Tensor]:
                q_pre, k_pre = step.pre()
                return q_pre[b : b + 1, :, p:], k_pre[b : b + 1, :, p:]

            seen = max(0, step.start - self.pads[b])
            own = replace(step, pos=step.pos[b : b + 1, p:], start=seen, pads=None, unrotated=pre)
            q_row, k_row, v_row = (x[b : b + 1, :, p:] for x in (q, k, v))
            out[b : b + 1, :, p:] = self.inner.attend(q_row, k_row, v_row, row, layer, own)
        return out

    def attend_packed(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step, pieces: Sequence[Piece]
    ) -> Tensor:
        """As `attend`, where the one sequence of the call, q [1, Hq, T, D], is pieces of rows one after the other."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        first = 0
        for piece in pieces:
            here = slice(first, first + piece.tokens)
            first += piece.tokens

            def pre(here: slice = here) -> tuple[Tensor, Tensor]:
                q_pre, k_pre = step.pre()
                return q_pre[:, :, here], k_pre[:, :, here]

            own = replace(step, pos=step.pos[:, here], start=piece.start, pads=None, unrotated=pre)
            q_row, k_row, v_row = (x[:, :, here] for x in (q, k, v))
            out[:, :, here] = self.inner.attend(q_row, k_row, v_row, state.rows[piece.row], layer, own)
        return out

    def seal(self, state: Any, layer: Layer) -> None:
        for row in state.rows:
            self.inner.seal(row, layer)

    def prefetch(self, state: Any, layer: Layer) -> None:
        for row in state.rows:
            self.inner.prefetch(row, layer)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        return self._sum(lambda pad: self.inner.footprint(layer, 1, prompt - pad, new, sealed))

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        return sum(self.inner.nominal(layer, 1, prompt - pad, new) for pad in self.pads)

    def _sum(self, row: Callable[[int], Footprint]) -> Footprint:
        total = Footprint()
        for pad in self.pads:
            total += row(pad)
        # `read` is of one sequence: the longest row's.
        return Footprint(total.held, max(row(pad).read for pad in self.pads))


def left_pads(attention_mask: Tensor, ids: Tensor) -> tuple[int, ...] | None:
    """Left padding of each row of a [B, T] mask of ones and zeros; None where there is no padding."""
    if attention_mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} and input_ids {tuple(ids.shape)} differ; both are [B, T]"
        )
    mask = attention_mask.bool()
    if bool(mask.all()):
        return None
    lengths = mask.sum(1)
    T = mask.shape[1]
    if not bool((mask == (torch.arange(T, device=mask.device)[None] >= (T - lengths)[:, None])).all()):
        raise ValueError("attention_mask has zeros after ones; pad rows on the left (tokenizer.padding_side = 'left')")
    if bool((lengths == 0).any()):
        raise ValueError("attention_mask has a row without a token")
    return tuple(int(T - n) for n in lengths)
