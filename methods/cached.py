"""The composed method: a cache with four axes, and the one loop that all of them share.

For each piece of a call that fits before the past changes (`room`):

    store the new keys and values
    for each span of slots that the selection lets the queries see: attend, by the store
    read the memory of what has left, and merge
    show the selection the piece; let leave what it says, into the memory
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kvfrontier.methods.attend import Attend, Part, add_sink_logits, check, choose, merge
from kvfrontier.methods.attend.eager import logits
from kvfrontier.methods.axes import Call, Memory, Positions, Selection, Span, Store, arange, as_stored, gather
from kvfrontier.methods.contract import Footprint, Method, Run, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import build_component, called, component, register
from kvfrontier.methods.sequence import Tokens, tokens_footprint
from kvfrontier.methods.state import Buf, State, leaves
from kvfrontier.methods.stores.dense import DenseStore

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session


@dataclass
class CachedState(State):
    """store, selection and memory: the states of the axes; seen: tokens so far; sealed: whether the prompt ended."""

    store: Any
    selection: Any
    memory: Any
    seen: int = 0
    sealed: bool = False


@dataclass(frozen=True)
class Cached(Method):
    """selection x store x memory x positions. `backend` names the softmax-attention function (attend/)."""

    selection: Selection = field(default_factory=Selection)
    store: Store = field(default_factory=DenseStore)
    memory: Memory = field(default_factory=Memory)
    positions: Positions = field(default_factory=Positions)
    backend: str = "auto"

    def __post_init__(self) -> None:
        check(self.backend)
        if (self.selection.when in ("order", "stream") or self.selection.views) and not self.store.streams:
            raise ValueError(
                f"{called(self.selection)} drops or reads single tokens as the stream goes, and {called(self.store)} "
                "holds groups that cannot lose one; choose a selection that compresses at seal, or another store"
            )
        if self.selection.ragged and not self.store.ragged:
            raise ValueError(
                f"{called(self.selection)} keeps another number of tokens in each head, and {called(self.store)} holds "
                "as many in all of them; choose method/store=ragged"
            )
        if self.selection.ragged and self.memory.join:
            raise ValueError(
                f"{called(self.memory)} takes as many tokens from every head, and {called(self.selection)} drops "
                "another number from each; choose another selection"
            )
        if self.selection.ragged and type(self.positions) is not Positions:
            raise ValueError(
                f"{called(self.selection)} keeps another number of tokens in each head, which have their original "
                "positions only; choose method/positions=original"
            )
        if self.positions.columns and self.selection.when == "seal":
            raise ValueError(
                f"{called(self.positions)} adds columns to keys, which {called(self.selection)} would score as if they "
                "were the model's; choose other positions"
            )
        if self.positions.at_use and self.store.wants_queries:
            raise ValueError(
                f"{called(self.store)} compares queries with keys as it holds them, and {called(self.positions)} "
                "places keys later; choose other positions"
            )
        if self.selection.views and self.positions.at_use:
            raise ValueError(
                f"{called(self.selection)} reads single slots, which have their original positions only; choose "
                "method/positions=original"
            )
        if self.positions.splits and self.selection.wants_weights:
            raise ValueError(
                f"{called(self.selection)} observes attention weights, and under {called(self.positions)} a key has no "
                "one weight for all queries; choose other positions"
            )
        if self.positions.splits and self.memory.join:
            raise ValueError(
                f"{called(self.memory)} stands in one place, and {called(self.positions)} asks for one near and one "
                "far; choose other positions"
            )
        if self.memory.join and self.selection.when == "never":
            raise ValueError(
                f"{called(self.memory)} takes what leaves, and {called(self.selection)} lets nothing leave; choose "
                "another selection"
            )
        self.memory.check(self.selection)
        self.positions.check(self.selection)
        if self.memory.wants_unrotated and not self.positions.at_use:
            raise ValueError(f"{called(self.memory)} has no positions; choose method/positions=in_cache")

    # Declared properties follow from the axes.
    @property
    def decode_equals_prefill(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.selection.when != "seal" and self.store.exact and not self.selection.views

    @property
    def differentiable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.store.differentiable

    @property
    def bounded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.selection.bounded and self.memory.bounded

    @property
    def query_sensitive(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.selection.query_sensitive or self.store.wants_queries or self.memory.wants_queries

    @property
    def needs_training(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.needs_training or self.positions.needs_training

    @property
    def drives(self) -> bool:
        return False

    @property
    def rereads(self) -> bool:
        return self.selection.rereads

    @property
    def adopts(self) -> Literal["kv", "kv+queries"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if type(self).attend is not Cached.attend:  # a subclass that attends otherwise says so itself
            return None
        streams = self.selection.when in ("order", "stream")
        if streams or self.rereads or self.unrotated or self.selection.wants_weights or self.memory.wants_queries:
            return None
        looking = self._looking
        return None if None in looking else "kv+queries" if looking else "kv"

    @property
    def last_queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max((n for n in self._looking if n is not None), default=0)

    @property
    def _looking(self) -> list[int | None]:
        """Of the axes that look at queries: at how many of the last."""
        looks = self.selection.query_sensitive or "prefill" in self.selection.observes
        selection = [self.selection.last_queries] if looks else []
        return selection + ([self.store.last_queries] if self.store.wants_queries else [])

    @property
    def shareable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        plain = type(self.store) is DenseStore and not self.positions.unrotated
        return self.selection.when == "never" and plain and not self.selection.views

    @property
    def unrotated(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.positions.unrotated or self.selection.wants_unrotated

    def reach(self, trained: float) -> float:
        places, most = self.positions.reach(trained), self.selection.most
        # Distances are those between slots, or those of a window: they end where what is attended at once does.
        ends = self.positions.at_use or (self.selection.local and self.memory.join is None)
        return math.inf if ends and most is not None and self.memory.slots() + most <= places else places

    @property
    def knob(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        # A memory that holds whatever leaves makes all sizes alike.
        return (self.selection.knob or self.store.knob) if self.memory.bounded else None

    @property
    def knob_step(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.selection.knob else self.store.knob_step

    def validate(self, layer: Layer) -> None:
        self.selection.validate(layer)
        self.store.validate(layer)
        self.positions.validate(layer)

    def at(self, layer: Layer) -> Method:
        """Itself; on a model that caches latents (MLA), the same over these, where they are held as they are."""
        if layer.latent is None or type(self.store) is not DenseStore:
            return self
        from kvfrontier.methods.sharing.mla import AbsorbedLatents, Mla

        return Mla(replace(self, store=AbsorbedLatents()))

    def module(self, layer: Layer) -> nn.Module | None:
        return self.memory.module(layer)

    def init_state(self, layer: Layer, batch: int) -> CachedState:
        return CachedState(
            self.store.init(layer, batch, self.bounded),
            self.selection.init(layer, batch),
            self.memory.init(layer, batch),
        )

    def init_sequence(self, batch: int, device: torch.device | str) -> Tokens | None:
        return Tokens.empty(batch, device) if self.rereads else None

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        if session.sequence_state is not None:
            session.sequence_state.ids.append(ids)
        return run(ids)

    def second_pass(self, run: Run, session: Session) -> None:
        if session.sequence_state is None:
            return
        ids, session.sequence_state = session.sequence_state.ids.view(), None
        if session.pads:  # each row from its own beginning
            ids = torch.stack([row.roll(-pad) for row, pad in zip(ids, session.pads, strict=True)])
        self.selection.read_again(run, ids)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        q_pre, k_pre = step.pre() if self.unrotated else (None, None)
        T, a, moving = q.shape[2], 0, self.selection.when in ("order", "stream")
        if layer.source is not None:
            return self._piece(q, None, None, None, None, state, layer, step)
        if T == 1:  # one token always fits
            return self._piece(q, k, v, q_pre, k_pre, state, layer, step)
        outputs = []
        while a < T:
            n = self.store.n(state.store)
            room = self.positions.room(self.memory.slots() + n, self.selection, layer)
            room = min(room, self.store.room(state.store), self.memory.room(state.memory))
            b = min(T, a + min(room, self.selection.room(state.seen)))
            # Every decoded query reads slots of its own, or codes as they are at its turn.
            alone = self.selection.views or (not self.store.exact and (moving or self.positions.splits))
            if alone and step.phase == "decode":
                b = a + 1
            if a == 0 and b == T:
                return self._piece(q, k, v, q_pre, k_pre, state, layer, step)
            piece = (None if x is None else x[:, :, a:b] for x in (q, k, v, q_pre, k_pre))
            outputs.append(self._piece(*piece, state, layer, replace(step, pos=step.pos[:, a:b])))  # pyright: ignore[reportArgumentType, reportCallIssue]
            a = b
        return torch.cat(outputs, 2)

    def _piece(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        q_pre: Tensor | None,
        k_pre: Tensor | None,
        state: CachedState,
        layer: Layer,
        step: Step,
    ) -> Tensor:
        """Tokens that see one unchanged past. `k` is None where another layer has stored this call's tokens."""
        T = q.shape[2]
        if k is not None and v is not None:
            self.store.append(state.store, self.positions.stored(k, k_pre, step.pos, layer), v)
            if self.memory.wants_queries and step.phase != "score":
                asked = q_pre if self.positions.at_use else self.positions.query(q, q_pre, step.pos, step.pos, layer)
                assert asked is not None
                self.memory.observe(state.memory, asked, layer)
        S = self.store.n(state.store) - T
        leaving = self.selection.left(S, T) if k is not None else (0, 0)
        if T == 1 and self.selection.rolling and step.phase != "score":
            # For one token what leaves can leave first: it then sees all that is left, in one part.
            self._let_leave(state, layer, *leaving)
            S, leaving = self.store.n(state.store) - 1, (0, 0)
            spans = [Span(0, S + 1)] if S >= 0 else []
        else:
            spans = self.selection.spans(S, T)
        # A backend is chosen by the widths that it will see.
        widened = replace(layer, d=layer.d + self.positions.columns) if self.positions.columns else layer
        attend = choose(self.backend, widened, torch.is_grad_enabled() and _in_graph(q, k, v, state.store))
        part = self._output(q, q_pre, spans, S, leaving, attend, state, layer, step)
        if k is None:
            return part[0]
        if step.phase in self.selection.observes and not (self.selection.when == "seal" and state.sealed):
            self.selection.observe(state.selection, self._call(q, q_pre, S, part, state, layer, step), layer)
        if step.phase == "score":
            self.store.drop(state.store, S, S + T)
            return part[0]
        self._let_leave(state, layer, *leaving)
        if self.selection.when == "stream" and self.selection.room(state.seen) == T:
            self._compress(state, layer)
        state.seen += T
        self.store.settle(state.store)
        n = self.store.n(state.store)
        self.selection.remember(state.selection, n, lambda begin, end: self.store.read(state.store, begin, end)[0])
        return part[0]

    def _output(
        self,
        q: Tensor,
        q_pre: Tensor | None,
        spans: list[Span],
        S: int,
        leaving: tuple[int, int],
        attend: Attend,
        state: CachedState,
        layer: Layer,
        step: Step,
    ) -> Part:
        """Attention over the spans, with the memory and the model's own sinks."""
        T, (begin, end), front = q.shape[2], leaving, self.memory.slots()
        positions = self.positions.at(front + S + T, layer)
        views = [view for span in spans for view in positions.views(span, S, T)]
        one_part = (
            len(views) == 1 and self.memory.join is None and step.sinks is None and not self.selection.wants_weights
        )
        if self.selection.views and step.phase == "decode":
            placed = self._placed(q, q_pre, S, layer, step, positions)
            slots = self.selection.view(state.selection, placed, S + T, layer)
            if slots is not None:
                part = self.store.attend_slots(state.store, placed, slots, layer, attend, not one_part)
                return part if step.sinks is None else add_sink_logits(part, step.sinks)

        def keys_at(keys: Tensor, slot: int, at: Positions = positions) -> Tensor:
            return at.keys(keys, front + slot, layer)

        def remembered_at(keys: Tensor, slot: int) -> Tensor:
            return positions.keys(keys, slot, layer)

        parts: list[Part] = []
        for span, at in views:
            placed = self._placed(q, q_pre, S, layer, step, at, span.capped)
            keys = as_stored if type(at).keys is Positions.keys else functools.partial(keys_at, at=at)
            parts += self.store.attend(state.store, placed, span, keys, layer, attend, not one_part)
        read = None
        if self.memory.join:
            # Where nothing has left yet, the place that it will leave from may lie beyond all that is held.
            first, last = min(begin, S + T), min(end, S + T)
            gone = self.store.read(state.store, first, last if self.selection.rolling else first)
            counts = (arange(1, T + 1, q) + (end - begin - T)).clamp(min=0)
            unplaced = self.memory.wants_unrotated or (self.memory.as_stored and positions.at_use)
            asked = q_pre if unplaced else self._placed(q, q_pre, S, layer, step, positions, True)
            assert asked is not None
            read = self.memory.read(state.memory, asked, layer, *gone, counts, remembered_at)
            if read is not None and self.memory.join == "softmax":
                parts.append(read)
        part = merge(parts) if parts else read
        assert part is not None
        if step.sinks is not None:
            part = add_sink_logits(part, step.sinks)
        if read is not None and self.memory.join == "gate":
            part = self.memory.mix(part, read, layer)
        return (part[0].to(q.dtype), part[1]) if positions.columns else part

    def _placed(
        self,
        q: Tensor,
        q_pre: Tensor | None,
        S: int,
        layer: Layer,
        step: Step,
        positions: Positions,
        capped: bool = False,
    ) -> Tensor:
        """Queries at their slots behind S others, or where else the positions put them."""
        if not positions.unrotated:
            return q
        front, cap = self.memory.slots(), self.selection.cap()
        slots = arange(front + S, front + S + q.shape[2], q)
        slots = slots.clamp(max=front + cap) if capped and cap else slots
        return positions.query(q, q_pre, step.pos, slots, layer)

    def _call(
        self, q: Tensor, q_pre: Tensor | None, S: int, part: Part, state: CachedState, layer: Layer, step: Step
    ) -> Call:
        """What the selection may observe of a piece with S tokens before it."""
        n, front = S + q.shape[2], self.memory.slots()
        positions = self.positions.at(front + n, layer)
        placed = self._placed(q, q_pre, S, layer, step, positions)

        def pre() -> Tensor:
            assert q_pre is not None
            return q_pre

        def weights(a: int, b: int) -> Tensor:
            x = torch.cat(
                [
                    logits(placed[:, :, a:b], positions.keys(k, front + slot, layer), layer.scale, layer.softcap)
                    for slot, k, _ in self.store.tiles(state.store, Span(0, n))
                ],
                -1,
            )  # fmt: skip
            lse = part[1][..., a:b].unflatten(1, (layer.hkv, -1)).unsqueeze(-1)
            unseen = arange(0, n, q) > arange(S + a, S + b, q)[:, None]
            return torch.exp(x - lse).masked_fill(unseen, 0.0)

        return Call(placed, step.phase, pre, weights)

    def _let_leave(self, state: CachedState, layer: Layer, begin: int, end: int) -> None:
        if end > begin:
            if self.memory.join:
                self._absorb(state, layer, *self.store.read(state.store, begin, end))
            self.store.drop(state.store, begin, end)

    def _absorb(self, state: CachedState, layer: Layer, k: Tensor, v: Tensor) -> None:
        self.memory.absorb(state.memory, *self.memory.encode(k, v, layer))

    def prefetch(self, state: Any, layer: Layer) -> None:
        if not (self.selection.views and state.sealed):  # which of them a query reads is not known before it
            self.store.prefetch(state.store)

    def seal(self, state: Any, layer: Layer) -> None:
        if state.sealed:
            return
        if self.selection.when == "seal":
            self._compress(state, layer)
            state.selection = None
        self.store.seal(state.store)
        state.sealed = True

    def _compress(self, state: CachedState, layer: Layer) -> None:
        """Down to the selection's budget, by its scores."""
        n = self.store.n(state.store)
        m = self.selection.kept(n, layer)
        if m >= n:
            return
        k, v = self.store.read(state.store, 0, n)
        front = self.memory.slots()
        keys = self.positions.at(front + n, layer).keys(k, front, layer)
        keep, gone = self.selection.choose(self.selection.scores(state.selection, keys, v, layer), m)
        if self.memory.join:
            self._absorb(state, layer, gather(k, gone), gather(v, gone))
        if self.memory.merges:
            received = self.selection.received(state.selection)
            merged = self.memory.merge(state.memory, k, v, keep, gone, received, layer)
            self.store.drop(state.store, 0, n)
            self.store.append(state.store, *merged)
        else:
            self.store.take(state.store, keep)
        if self.selection.when == "stream":
            self.selection.took(state.selection, keep)

    def adopt(self, state: Any, layer: Layer, k: Tensor, v: Tensor, queries: Tensor | None) -> None:
        if self.adopts is None and not self._is_window_of(layer):
            return super().adopt(state, layer, k, v, queries)
        state.seen = k.shape[2]
        n = self.selection.slots(state.seen, 0, False, layer)
        k, v = k[:, :, state.seen - n :], v[:, :, state.seen - n :]
        self.store.append(state.store, k, v)
        if queries is not None and self.store.wants_queries:
            self.store.show(state.store, queries)
        if queries is not None and "prefill" in self.selection.observes:

            def unseen(*_: int) -> Tensor:
                raise AssertionError("only queries are adopted")

            self.selection.observe(state.selection, Call(queries, "prefill", unseen, unseen), layer)
        self.store.settle(state.store)
        self.selection.remember(state.selection, n, lambda begin, end: k[:, :, begin:end])

    def _is_window_of(self, layer: Layer) -> bool:
        """Whether it is the window that the model itself has in this layer: dense attention sees no more there."""
        selection, plain = self.selection, type(self.memory) is Memory and type(self.positions) is Positions
        return plain and selection.rolling and selection.local and selection.most == layer.window

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        slots = self.selection.slots(prompt, new, sealed, layer)
        stored = self.store.footprint(layer, batch, slots, sealed, self.bounded)
        if self.selection.views:
            seen = self.store.footprint(layer, batch, self.selection.viewed(slots, layer), sealed, self.bounded)
            stored = replace(stored, read=seen.read)
        return (
            stored
            + self.selection.footprint(layer, batch, prompt, new, sealed)
            + self.memory.footprint(layer, batch, prompt + new - slots)
        )

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        held = self.rereads and not sealed
        return tokens_footprint(batch, prompt + new, read=False) if held else Footprint()

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        slots = self.selection.slots(prompt, new, True, layer)
        stored = self.store.nominal(layer, batch, slots)
        return stored + self.memory.footprint(layer, batch, prompt + new - slots).held.payload

    def lossless(self, n: int) -> Cached | None:
        axes = {name: getattr(self, name).lossless(n) for name in ("selection", "store", "positions")}
        return None if None in axes.values() else replace(self, **axes)


def _in_graph(*parts: Any) -> bool:
    """Whether a gradient may reach any of these tensors and states: what is stored may need one where a call does not
    (learned tokens before a text, in a model that is not trained)."""
    found = (leaf.x if isinstance(leaf, Buf) else leaf for _, leaf, _ in leaves(list(parts)))
    return any(x.requires_grad for x in found)


@component("selection", "all")
def All() -> Selection:
    """Every token stays."""
    return Selection()


@component("memory", "dropped")
def Dropped() -> Memory:
    """What leaves is gone."""
    return Memory()


@component("positions", "original")
def Original() -> Positions:
    """Keys and queries as the model made them, at their true positions."""
    return Positions()


component("store", "dense")(DenseStore)


@register(
    "cached",
    family="baseline",
    cost="what its selection keeps, as its store holds it, and its memory",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Composed(
    selection: Mapping[str, Any] | str = "all",
    store: Mapping[str, Any] | str = "dense",
    memory: Mapping[str, Any] | str = "dropped",
    positions: Mapping[str, Any] | str = "original",
    backend: str = "auto",
) -> Cached:
    """A cache of one's own: which tokens stay, how they are held, what becomes of the others, at which positions.

    `method=cached method/selection=snapkv method.selection.budget=128 method/store=kivi2`; `kvfrontier list axes` shows
    the choices. A pair that makes no sense is refused with the reason.
    """
    return Cached(
        build_component("selection", selection), build_component("store", store), build_component("memory", memory),
        build_component("positions", positions), backend,
    )  # fmt: skip
