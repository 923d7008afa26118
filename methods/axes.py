"""The four axes that compose into `Cached` (cached.py): which tokens stay, how they are stored, what becomes of those
that leave, and at which positions keys are attended. `Cached` owns the loop; an axis answers small questions.

A *slot* is a place in the store; slots are in order of position. S is the number of slots before this call's T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kvfrontier.methods.attend import Attend, Part
from kvfrontier.methods.contract import Footprint, Phase, Run
from kvfrontier.methods.layer import Layer

#: No limit on how many tokens fit before the past changes.
ENDLESS = 1 << 62

#: When tokens leave; see `Selection`.
When = Literal["never", "seal", "order", "stream"]
KeysAt = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Span:
    """A range of slots that the queries of one call see, `begin` to `end`.

    last    the span ends with the call's own tokens: query t sees up to its own. Otherwise all see all of it.
    window  with `last`: a query sees its last `window` slots
    capped  under positions in the cache, a query stands at the selection's `cap` at most
    """

    begin: int
    end: int
    last: bool = True
    window: int | None = None
    capped: bool = False


@dataclass(frozen=True)
class Call:
    """One piece of a call, as a selection may observe it.

    q        [B, Hq, T, D] as attended
    phase    prefill, decode or score
    pre      gives q before RoPE
    weights  weights(a, b): float32 attention weights [B, Hkv, G, b - a, S + T] of queries a to b over all slots. They
             are computed when asked for, so that a tile of rows is all that exists of T x (S + T). Only where the
             selection declares `wants_weights`.
    """

    q: Tensor
    phase: Phase
    pre: Callable[[], Tensor]
    weights: Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Selection:
    """Which tokens stay.

    `when` says when tokens leave: "never"; "seal", by scores when the prompt ends; "order", by age alone as the stream
    goes, so that a chunk is one call under a mask; "stream", by scores as the stream goes, when `room` is used up.
    """

    when: ClassVar[When] = "never"
    #: ("order") A token leaves before the query that pushes it out attends, rather than after the whole call.
    rolling: ClassVar[bool] = False
    #: Phases whose calls it observes; a selection at seal observes nothing after it.
    observes: ClassVar[tuple[Phase, ...]] = ()
    #: It asks for `Call.weights`.
    wants_weights: ClassVar[bool] = False
    #: It keeps count of the attention that each token has received (`received`).
    counts: ClassVar[bool] = False
    #: It asks for `Call.pre`.
    wants_unrotated: ClassVar[bool] = False
    #: Each head keeps its own number of tokens: `choose` gives flat slots, and the store must be ragged.
    ragged: ClassVar[bool] = False
    #: All tokens stay, and a decoded token reads only some of them (`view`).
    views: ClassVar[bool] = False
    #: The prompt is read again when it has ended (`read_again`); until then the sequence's token ids are held.
    rereads: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    query_sensitive: ClassVar[bool] = False
    knob: ClassVar[str | None] = None

    @property
    def local(self) -> bool:
        """What stays is the newest stretch of the text, and nothing older."""
        return False

    @property
    def most(self) -> int | None:
        """The most slots that a query sees, or None where they grow with the text."""
        return None

    @property
    def last_queries(self) -> int | None:
        """How many of the prompt's last queries are all that it looks at (`observe`), so that it can start from a dense
        prefix; None: it looks at more than these, or at none."""
        return None

    @property
    def together(self) -> int:
        """Tokens leave in multiples of so many."""
        return 1

    def validate(self, layer: Layer) -> None:
        """Raise ValueError where the parameters make no sense for this layer."""

    def init(self, layer: Layer, batch: int) -> Any:
        """State of its own (kept queries, scores), counted; or None."""
        return None

    def room(self, n: int) -> int:
        """How many tokens fit before the past changes, after `n` tokens."""
        return ENDLESS

    def spans(self, S: int, T: int) -> list[Span]:
        """What the queries of a call see."""
        return [Span(0, S + T)]

    def cap(self) -> int | None:
        """The highest slot at which a query can stand, or None."""
        return None

    def left(self, S: int, T: int) -> tuple[int, int]:
        """("order") Slots [begin, end) that leave in a call of T tokens."""
        return 0, 0

    def observe(self, state: Any, call: Call, layer: Layer) -> None:
        """See one piece of a call, in the phases that `observes` names."""

    def remember(self, state: Any, n: int, keys: Callable[[int, int], Tensor]) -> None:
        """After tokens were stored for good: n slots, and keys(begin, end) [B, Hkv, end - begin, D] as stored."""

    def read_again(self, run: Run, ids: Tensor) -> None:
        """(`rereads`) The prompt ids [B, n] has ended and nothing is sealed: run what must be read for the scores. What
        is run is observed as phase "score", and not remembered."""

    def view(self, state: Any, q: Tensor, n: int, layer: Layer) -> Tensor | None:
        """(`views`) Slots [B, Hkv, m], ascending, that one decoded query [B, Hq, 1, D] reads of n; None: all."""
        return None

    def viewed(self, n: int, layer: Layer) -> int:
        """(`views`) How many of n slots one decoded query reads."""
        return n

    def kept(self, n: int, layer: Layer) -> int:
        """("seal", "stream") How many of n slots stay."""
        return n

    def scores(self, state: Any, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        """("seal", "stream") [B, Hkv, n]; the highest stay. k are keys as attended."""
        raise NotImplementedError

    def received(self, state: Any) -> Tensor | None:
        """(`counts`) [B, Hkv, n] float32, attention that each of n slots has received."""
        return None

    def choose(self, scores: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """Slots that stay [B, Hkv, m] and slots that leave [B, Hkv, n - m], both ascending. One stable order, so that
        they are a partition. (`ragged`: flat slots [B, Hkv m], head h's slot s as h n + s, ascending.)"""
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        return order[..., :m].sort(-1).values, order[..., m:].sort(-1).values

    def took(self, state: Any, keep: Tensor) -> None:
        """("stream") The store has kept just these slots [B, Hkv, m]; do the same to what is held for each slot."""

    def slots(self, prompt: int, new: int, sealed: bool, layer: Layer) -> int:
        """Slots in use at that point."""
        kept = self.kept(prompt, layer) if sealed else prompt
        return kept + new

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int, sealed: bool) -> Footprint:
        """Cost of its own state."""
        return Footprint()

    def lossless(self, n: int) -> Selection | None:
        """Settings under which nothing leaves in n tokens, or None where there are none."""
        return self if self.when == "never" else None


@dataclass(frozen=True)
class Store:
    """How the tokens that stay are held."""

    differentiable: ClassVar[bool] = True
    #: Decoding after `seal` sees what a prefill saw.
    exact: ClassVar[bool] = True
    #: One token can be taken out of the middle, or read alone, at any time.
    streams: ClassVar[bool] = True
    #: `take` accepts flat slots, another number for each head.
    ragged: ClassVar[bool] = False
    #: It looks at the queries that pass.
    wants_queries: ClassVar[bool] = False
    knob: ClassVar[str | None] = None

    @property
    def last_queries(self) -> int | None:
        """As a selection's; they come by `show`."""
        return None

    def show(self, state: Any, q: Tensor) -> None:
        """(`wants_queries`) See queries [B, Hq, T, D] of the prompt, in order."""
        raise NotImplementedError

    @property
    def knob_step(self) -> int:
        """In which steps the knob goes (`Method.knob_step`)."""
        return 1

    def validate(self, layer: Layer) -> None:
        """Raise ValueError where the parameters make no sense for this layer."""

    def init(self, layer: Layer, batch: int, bounded: bool) -> Any:
        """The empty store; a bounded one allocates no slack."""
        raise NotImplementedError

    def n(self, state: Any) -> int:
        """Slots in use."""
        raise NotImplementedError

    def room(self, state: Any) -> int:
        """How many tokens fit before the past changes."""
        return ENDLESS

    def append(self, state: Any, k: Tensor, v: Tensor) -> None:
        """Add tokens at the end."""
        raise NotImplementedError

    def read(self, state: Any, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a range of slots as they would be attended; the oracle of `attend`."""
        raise NotImplementedError

    def gather(self, state: Any, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hkv, m, D] of single slots [B, Hkv, m]."""
        k, v = self.read(state, 0, self.n(state))
        return gather(k, slots), gather(v, slots)

    def attend_slots(self, state: Any, q: Tensor, slots: Tensor, layer: Layer, attend: Attend, lse: bool) -> Part:
        """Attention of one query [B, Hq, 1, D] over single slots [B, Hkv, m]."""
        k, v = self.gather(state, slots)
        return attend(q, k, v, scale=layer.scale, softcap=layer.softcap, causal=False, lse=lse)

    def tiles(self, state: Any, span: Span) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first slot, keys, values) of pieces of a span; with `span.last` the last piece holds the call's tokens."""
        yield (span.begin, *self.read(state, span.begin, span.end))

    def attend(
        self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, attend: Attend, lse: bool
    ) -> list[Part]:
        """Attention over a span, as parts to merge; a store with a fused kernel overrides this."""
        parts = []
        for slot, k, v in self.tiles(state, span):
            last = span.last and slot + k.shape[2] == span.end
            alone = slot == span.begin and slot + k.shape[2] == span.end
            parts.append(
                attend(
                    q, keys_at(k, slot), v, scale=layer.scale, softcap=layer.softcap,
                    causal=last, window=span.window if last else None, lse=lse or not alone,
                )
            )  # fmt: skip
        return parts

    def prefetch(self, state: Any) -> None:
        """The previous layer is about to attend: start to bring what is in host memory."""

    def settle(self, state: Any) -> None:
        """After a call: flush what is full."""

    def take(self, state: Any, keep: Tensor) -> None:
        """Keep the slots [B, Hkv, m] (ascending), drop the rest. (`ragged`: flat slots, see `Selection.choose`.)"""
        raise NotImplementedError

    def drop(self, state: Any, begin: int, end: int) -> None:
        """Drop a range of slots."""
        raise NotImplementedError

    def seal(self, state: Any) -> None:
        """The prompt has ended."""

    def footprint(self, layer: Layer, batch: int, slots: int, sealed: bool, bounded: bool) -> Footprint:
        """Cost of holding `slots` tokens."""
        raise NotImplementedError

    def nominal(self, layer: Layer, batch: int, slots: int) -> int:
        """Bytes of the elements alone, as papers count them: without scales, zeros, residuals and slack."""
        return batch * slots * layer.kv_bytes

    def lossless(self, n: int) -> Store | None:
        """Settings under which n tokens are held exactly, or None."""
        return self


@dataclass(frozen=True)
class Memory:
    """What becomes of tokens that leave.

    join: None (they are gone), "softmax" (its output is a part, merged by log-sum-exp), "gate" (its output is mixed
    in by a gate).
    """

    join: ClassVar[Literal["softmax", "gate"] | None] = None
    #: Keys must reach it before RoPE: it has no positions.
    wants_unrotated: ClassVar[bool] = False
    #: It compares queries with keys as stored: where these are before RoPE, so are the queries that it reads.
    as_stored: ClassVar[bool] = False
    #: It looks at the queries that pass (`observe`).
    wants_queries: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    #: What leaves by scores goes into the tokens that stay (`merge`); it holds nothing beside them.
    merges: ClassVar[bool] = False

    def check(self, selection: Selection) -> None:
        """Raise ValueError, with what to change, where it cannot take what this selection lets leave."""

    def module(self, layer: Layer) -> nn.Module | None:
        """Learnable parts (`Method.module`), which come back as `layer.params`."""
        return None

    def init(self, layer: Layer, batch: int) -> Any:
        return None

    def slots(self) -> int:
        """Slots it occupies in front of the store, for positions in the cache."""
        return 0

    def room(self, state: Any) -> int:
        """How many tokens may leave before its past changes."""
        return ENDLESS

    def observe(self, state: Any, q: Tensor, layer: Layer) -> None:
        """(`wants_queries`) See the queries [B, Hq, T, D] of a piece whose tokens stay, rotated as stored keys are,
        before anything leaves."""

    def encode(self, k: Tensor, v: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        """What it absorbs of tokens that leave, k [B, Hkv, n, D] as stored: themselves, unless learned parts make
        something else of them."""
        return k, v

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        """Take in tokens that leave, as `encode` gives them."""

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        """What queries [B, Hq, T, D] get from it, query t after the first counts[t] of the leaving k, v [B, Hkv, n, D]
        (as stored; n may be 0) were absorbed; None where there is nothing yet. keys_at(keys, slot) gives keys that it
        holds as attended, the first of them in one of its `slots`. The state does not change."""
        return None

    def mix(self, part: Part, memory: Part, layer: Layer) -> Part:
        """("gate") The output from what softmax and memory gave."""
        raise NotImplementedError

    def merge(
        self, state: Any, k: Tensor, v: Tensor, keep: Tensor, gone: Tensor, received: Tensor | None, layer: Layer
    ) -> tuple[Tensor, Tensor]:
        """(`merges`) Keys and values of the slots keep [B, Hkv, m] of k and v, as stored, after those of the slots gone
        [B, Hkv, n] went into them. received [B, Hkv, m + n]: attention so far, where the selection `counts` it."""
        raise NotImplementedError

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        """Cost after `gone` tokens left."""
        return Footprint()


@dataclass(frozen=True)
class Positions:
    """At which positions keys are attended; `original` is the base: as the model made them.

    pos are true positions [B, T] of a call's tokens, `slots` [T] the places of its queries in memory and store.
    """

    #: It asks for queries and keys before RoPE.
    unrotated: ClassVar[bool] = False
    #: The store holds keys before RoPE, and they get the positions of their slots when they are attended.
    at_use: ClassVar[bool] = False
    #: A key stands elsewhere for a near query than for a far one (`views`).
    splits: ClassVar[bool] = False
    #: Columns that it adds to queries and keys as attended; kernels for equal widths cannot serve these.
    columns: ClassVar[int] = 0
    needs_training: ClassVar[bool] = False

    def validate(self, layer: Layer) -> None:
        """Raise ValueError where the layer's positions cannot be served."""

    def check(self, selection: Selection) -> None:
        """Raise ValueError where these positions do not survive what the selection does."""

    def reach(self, trained: float) -> float:
        """How many places in a row can be told apart, for a model of `trained` positions: as many tokens of a text, or
        slots of a cache where these are the places (`at_use`)."""
        return trained

    def room(self, n: int, selection: Selection, layer: Layer) -> int:
        """How many tokens fit, after n slots, before the positions of the past change."""
        return ENDLESS

    def at(self, n: int, layer: Layer) -> Positions:
        """The positions that hold while n slots are in use."""
        return self

    def views(self, span: Span, S: int, T: int) -> list[tuple[Span, Positions]]:
        """(`splits`) The ranges into which a span falls for T queries behind S slots, each with its positions."""
        return [(span, self)]

    def stored(self, k: Tensor, k_pre: Tensor | None, pos: Tensor, layer: Layer) -> Tensor:
        """What the store holds."""
        return k

    def keys(self, k: Tensor, slot: int, layer: Layer) -> Tensor:
        """Keys from the store, the first of them in `slot`, as attended."""
        return k

    def query(self, q: Tensor, q_pre: Tensor | None, pos: Tensor, slots: Tensor, layer: Layer) -> Tensor:
        """Queries as attended."""
        return q

    def lossless(self, n: int) -> Positions | None:
        """Settings under which n tokens stand where the model put them, or None where there are none."""
        return self


def as_stored(keys: Tensor, slot: int) -> Tensor:
    """The `KeysAt` of positions that leave stored keys as they are; a store that sees it need not decode them."""
    return keys


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Slots `index` [B, Hkv, m] of x [B, Hkv, n, D]."""
    return x.gather(2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))


def arange(begin: int, end: int, like: Tensor) -> Tensor:
    """begin, ..., end - 1, on the device of `like`."""
    return torch.arange(begin, end, device=like.device)
