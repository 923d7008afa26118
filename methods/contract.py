"""The contract: a method is a function of (q, k, v, state). Read this file first.

A `Method` is a frozen dataclass that holds hyper-parameters and declared properties and nothing else. What it
remembers lives in a `State` (state.py) that the session owns, one a layer. The session calls, for each layer,

    state = method.init_state(layer, batch)                    # once
    out   = method.attend(q, k, v, state, layer, step)         # every forward: one-shot, chunked, decode, training
    method.seal(state, layer)                                  # when the prompt has ended

Shapes: q [B, Hq, T, D], k [B, Hkv, T, D], v [B, Hkv, T, Dv] with T >= 1, keys and queries as the model made them
(after RoPE); out [B, Hq, T, Dv]. Keys and values are never repeated for grouped queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Bytes, State

if TYPE_CHECKING:
    from kvfrontier.runners.session import Session

Phase = Literal["prefill", "decode", "score"]


@dataclass(frozen=True)
class Footprint:
    """What a method's state costs, in closed form.

    held   bytes by tier, payload and slack apart (state.Bytes)
    read   bytes of state that one decoded token touches, metadata included
    """

    held: Bytes = field(default_factory=Bytes)
    read: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.held + other.held, self.read + other.read)

    @classmethod
    def of(cls, payload: int, slack: int = 0, read: int | None = None) -> Footprint:
        """A footprint on the device alone; every held byte is read unless `read` says otherwise."""
        return cls(Bytes(device=payload, device_slack=slack), payload if read is None else read)


@dataclass
class Step:
    """What one forward knows.

    pos     [B, T] true positions of the tokens of this call
    start   tokens seen before this call
    phase   "prefill", "decode", or "score" (a pass whose tokens are not remembered). The phase, and never T == 1,
            tells a decode.
    pads    left padding of each row in tokens, or None where there is none
    sinks   [Hq] the model's own sink logits (gpt-oss), or None: one more term in the softmax's sum, with output 0
    unrotated   gives q and k before RoPE, shapes as q and k
    """

    pos: Tensor
    start: int
    phase: Phase = "prefill"
    pads: tuple[int, ...] | None = None
    sinks: Tensor | None = None
    unrotated: Callable[[], tuple[Tensor, Tensor]] | None = None

    def pre(self) -> tuple[Tensor, Tensor]:
        """q and k before RoPE."""
        if self.unrotated is None:
            raise ValueError("this method needs queries and keys before RoPE, and this step brings none")
        return self.unrotated()


class Run(Protocol):
    """One forward of the model, as a method that drives it may ask for it.

    phase   of the call that is driven
    keep    how many last positions' logits the call asks for
    """

    @property
    def phase(self) -> Phase: ...
    @property
    def keep(self) -> int: ...

    def __call__(self, ids: Tensor | None = None, **options: Any) -> Tensor:
        """Logits [B, keep, V] of ids [B, T]. Options are those of `Session.run`: embeds, positions, fresh, keep, phase,
        hidden."""
        ...


@dataclass(frozen=True)
class Method:
    """Base of every method: declared properties with their usual values, and hooks with their usual behaviour.

    A subclass gives `init_state`, `attend` and `footprint`; it overrides the rest where it differs.
    """

    #: The state and the outputs do not depend on how the prompt was cut into chunks.
    chunk_invariant: ClassVar[bool] = True
    #: Decoding tokens one by one gives what a prefill of the same tokens gives.
    decode_equals_prefill: ClassVar[bool] = True
    #: Gradients reach q, k and v through `attend`.
    differentiable: ClassVar[bool] = True
    #: The state stops growing.
    bounded: ClassVar[bool] = False
    #: What is held after seal depends on the prompt's queries, the last ones among them, and not only on its keys and
    #: values: a question in the prompt steers what is kept.
    query_sensitive: ClassVar[bool] = False
    #: It only masks: nothing is saved.
    simulated: ClassVar[bool] = False
    #: A model that was not trained with it cannot use it.
    needs_training: ClassVar[bool] = False
    #: What it can take from the shared dense prefix instead of a prefill of its own.
    adopts: ClassVar[Literal["kv", "kv+queries"] | None] = None
    #: Of "kv+queries": how many of the prompt's last queries it needs.
    last_queries: ClassVar[int] = 0
    #: Its state may be read by another layer (cross-layer sharing).
    shareable: ClassVar[bool] = False
    #: It reads queries and keys before RoPE (`Step.pre`).
    unrotated: ClassVar[bool] = False
    #: What it does next depends on how far a text has come: rows of unequal length are driven one by one, each with a
    #: sequence state of its own.
    rows_apart: ClassVar[bool] = False
    #: The hyper-parameter that a budget solves for, or None; and in which steps it goes. In steps of one the state
    #: grows with it; a larger step says that it need not.
    knob: ClassVar[str | None] = None
    knob_step: ClassVar[int] = 1

    @property
    def drives(self) -> bool:
        """It reads the text in an order of its own, or remembers more than a state a layer: it serves all layers."""
        hooks = ("drive", "second_pass", "init_sequence")
        return any(getattr(type(self), hook) is not getattr(Method, hook) for hook in hooks)

    @property
    def rereads(self) -> bool:
        """It asks for the prompt to be read again when it has ended (`second_pass`), and else leaves the order of
        reading alone: other methods may serve single layers."""
        return False

    def validate(self, layer: Layer) -> None:
        """Raise ValueError, with what to change, where the method cannot serve this layer."""

    def reach(self, trained: float) -> float:
        """The longest text, in tokens, for a model of `trained` positions (infinity where it names none): without end
        where no query meets a key from further away than the model was trained for."""
        return trained

    def at(self, layer: Layer) -> Method:
        """The method that serves this layer: itself, unless it chooses by layer (per_layer.py)."""
        return self

    def source(self, layer: Layer) -> int | None:
        """Index of an earlier layer whose state this one reads, or None; the usual answer is the model's own."""
        return layer.source

    def module(self, layer: Layer) -> nn.Module | None:
        """Learnable parts for one layer, or None. The session makes them once, from a seed, and hands them back as
        `layer.params`; the trained track trains them."""
        return None

    def init_state(self, layer: Layer, batch: int) -> State | None:
        """The empty state. Not called for a layer that reads another's."""
        raise NotImplementedError

    def init_sequence(self, batch: int, device: torch.device | str) -> State | None:
        """State of the whole sequence rather than of a layer (token ids, memory tokens), or None."""
        return None

    def latent(self, a: Tensor, b: Tensor, state: Any, layer: Layer) -> tuple[Tensor, Tensor]:
        """What a model that caches latents (MLA) gives its cache, before `attend`; returns what it gets back."""
        return a, b

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
        """Attention output [B, Hq, T, Dv]; changes `state` in place."""
        raise NotImplementedError

    def seal(self, state: Any, layer: Layer) -> None:
        """The prompt has ended: compress now. Idempotent."""

    def adopt(self, state: Any, layer: Layer, k: Tensor, v: Tensor, queries: Tensor | None) -> None:
        """Fill an empty state from a dense prefix, as a prefill of the same tokens would; `seal` comes after.

        k [B, Hkv, n, D], v [B, Hkv, n, Dv]; queries [B, Hq, w, D], the last ones, `last_queries` or more of them,
        where `adopts` asks for them.
        """
        raise ValueError(f"{type(self).__name__} cannot start from a dense prefix (adopts = {self.adopts!r})")

    def prefetch(self, state: Any, layer: Layer) -> None:
        """Called before the previous layer attends: start to move the host part of this layer's state."""

    def second_pass(self, run: Run, session: Session) -> None:
        """The prompt has ended and no layer is sealed yet: what must be read again for it (KVzip). `run` as for
        `drive`; with phase "score" its tokens are not remembered."""

    def drive(self, run: Run, ids: Tensor, session: Session) -> Tensor:
        """One call of the session, in the method's own order. `run(ids)` does one forward of the model and returns
        its logits; the usual behaviour is just that. Segments, memory tokens and second passes override it."""
        return run(ids)

    def footprint(self, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        """Bytes of one layer's state after `prompt` tokens, `seal` (unless `sealed` is false) and `new` decoded
        tokens."""
        raise NotImplementedError

    def nominal(self, layer: Layer, batch: int, prompt: int, new: int = 0) -> int:
        """Bytes that the method claims after seal: the elements alone, without scales, residuals and slack."""
        return self.footprint(layer, batch, prompt, new).held.payload

    def sequence_footprint(self, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
        """Bytes of `init_sequence`'s state at that point."""
        return Footprint()

    def lossless(self, n: int) -> Method | None:
        """Settings under which it must equal dense attention on `n` tokens, or None where there are none."""
        return None
