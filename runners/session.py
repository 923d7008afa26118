"""A session: one model, one method (or one a layer), and the state of a text that is being read and written.

    with Session(model, methods.Sinks(window=252, sinks=4)) as s:
        logits = s.prefill(input_ids, chunk=512)      # [B, V], of the last position
        logits = s.decode(logits.argmax(-1))          # [B, V]; ids [B], or [B, T]
        s.generate(max_new_tokens=32)
        s.state_bytes()
        child = s.fork()

Inside the `with` the model's attention is the method's; outside it the model is as it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from kvfrontier.methods import state as states
from kvfrontier.methods.contract import Footprint, Method, Phase, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.per_layer import PerLayer
from kvfrontier.methods.state import Bytes
from kvfrontier.runners.bridge import Bridge, TokenCount, UnsupportedModel
from kvfrontier.runners.decoding import Choose, greedy
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.rows import PerRow, Piece, Rows, left_pads, pack

#: Tokens that `forced` feeds in one call where the method does not mind.
FORCED_STEP = 64


@dataclass(frozen=True)
class _Run:
    """What a method's `drive` is given (contract.Run)."""

    session: Session
    phase: Phase
    keep: int

    def __call__(self, ids: Tensor | None = None, **options: Any) -> Tensor:
        return self.session.run(ids, **{"phase": self.phase, "keep": self.keep, **options})


class Session:
    """A model that attends by a method.

    model    a causal language model of transformers
    method   serves every full-attention layer; layers that the model itself windows keep their window and drop.
             `methods.PerLayer` chooses another for some layers
    grad     keep the graph of every call, for training; states then grow by concatenation

    Raises UnsupportedModel where the model cannot be served, ValueError where the method cannot serve a layer.
    """

    def __init__(self, model: Any, method: Method, *, grad: bool = False) -> None:
        self.model, self.method, self.grad = model, method, grad
        self._bridge: Bridge | None = None
        self._parent: Session | None = None
        self._methods: list[Method] = []
        self._brought: list[dict[str, Any]] = []
        self._cache: TokenCount | None = None
        #: Whether some method reads queries and keys before RoPE; else the bridge need not keep them.
        self.unrotated = True
        self._clear()

    # ------------------------------------------------------------------------------------------ the `with`

    def __enter__(self) -> Self:
        if self._bridge is not None:
            raise RuntimeError("this session is open already; open another, or fork it")
        bridge = Bridge.install(self.model)
        if self._parent is not None:
            self._bridge = bridge
            return self  # a fork keeps what it was forked with
        try:
            self._methods = self._assign(bridge)
            self._cache = bridge.new_cache(bridge.latents)
            self._clear()
        except BaseException:
            bridge.remove()
            raise
        self._bridge = bridge
        return self

    def __exit__(self, *_: object) -> None:
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.remove()

    @property
    def _open(self) -> Bridge | None:
        """The installed bridge: the session's own, or that of the session it was forked from."""
        if self._bridge is not None:
            return self._bridge
        return self._parent._open if self._parent is not None else None

    @property
    def bridge(self) -> Bridge:
        bridge = self._open
        if bridge is None:
            raise RuntimeError("the session is closed; use it inside `with Session(model, method) as s:`")
        return bridge

    def _assign(self, bridge: Bridge) -> list[Method]:
        """The method of each layer, validated; and what it brings to the layer (learnable parts, a shared state)."""
        from kvfrontier.methods import Window

        self._brought = []
        chosen: list[Method] = []
        self._refuse_choices_without_effect(bridge)
        for layer in bridge.layers:
            self.method.validate(layer)
            method = self.method if layer.window is None else Window(window=layer.window)
            method = method.at(layer)
            source = method.source(layer)
            if source is not None and not (method.shareable and method == chosen[source]):
                raise UnsupportedModel(
                    f"layer {layer.index} of {type(self.model).__name__} reads the keys and values of layer "
                    f"{source}, and this method's state cannot be shared"
                )
            if source is not None and layer.device != bridge.layers[source].device:
                raise UnsupportedModel(
                    f"layer {layer.index} reads the state of layer {source}, and the two are on different devices; "
                    "load the model on one, with model.device_map=null"
                )
            if layer.latent is not None and type(method).latent is Method.latent:
                raise UnsupportedModel(
                    f"{type(self.model).__name__} caches latents (MLA), and {type(method).__name__} has no latent hook "
                    "to hold them"
                )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(layer.index)
                params = method.module(layer)
            if params is not None:
                # Fake parameters cannot be moved; they are there already.
                if any(p.device != torch.device(layer.device) for p in params.parameters()):
                    params = params.to(layer.device)
                params = params.requires_grad_(self.grad)
            self._brought.append({"params": params, "source": source} if params or source != layer.source else {})
            chosen.append(method)
        self.unrotated = any(method.unrotated for method in chosen)
        return chosen

    def _refuse_choices_without_effect(self, bridge: Bridge) -> None:
        """A choice for layers all of which the model windows would do nothing."""
        for layers, _ in self.method.choices if isinstance(self.method, PerLayer) else ():
            named = [layer for layer in bridge.layers if layer.index in layers.of(layer.count)]
            if named and all(layer.window is not None for layer in named):
                raise ValueError(
                    f"layers {layers.spec} have a window of {named[0].window} of the model's own, and keep it; choose "
                    "full-attention layers"
                )

    def _layer(self, index: int) -> Layer:
        """The bridge's layer, with what its method brings."""
        layer, brought = (self._bridge or self.bridge).layers[index], self._brought[index]
        return replace(layer, **brought) if brought else layer

    # ------------------------------------------------------------------------------------------ the state

    def _clear(self) -> None:
        """As before the first token."""
        self.states: list[Any] = []
        self.sequence_state: Any = None
        #: All rows' states, while one row is driven alone.
        self._beside: list[Any] = []
        self.last_logits: Tensor | None = None
        self._batch = 0
        self._pads: tuple[int, ...] | None = None
        self._serving = self._methods
        self._prompt = self._new = 0
        self._sealed = self._decoded = False
        self._phase: Phase = "prefill"
        self._step: tuple[Tensor, int] | None = None
        #: Of a packed forward, what it holds of which row.
        self._pieces: Sequence[Piece] | None = None
        if self._cache is not None:
            self._cache.n = 0
            self._cache.load(None)

    def reset(self) -> None:
        """Forget the text: the next call must be a prefill."""
        self._clear()

    def _begin(self, batch: int, pads: tuple[int, ...] | None) -> None:
        bridge = self.bridge
        self._batch, self._pads = batch, pads
        self._serving = self._methods if pads is None else [PerRow(method, pads) for method in self._methods]
        device = bridge.layers[0].device
        if self._apart:
            self.sequence_state = Rows([self.method.init_sequence(1, device) for _ in range(batch)])
        else:
            self.sequence_state = self.method.init_sequence(batch, device)
        self._fill_states()

    def _fill_states(self) -> None:
        self.states = []
        for layer, method in zip(self.layers, self._serving, strict=True):
            self.states.append(
                method.init_state(layer, self._batch) if layer.source is None else self.states[layer.source]
            )
        self._prefetching = [type(method).prefetch is not Method.prefetch for method in self._methods]

    @property
    def _apart(self) -> bool:
        """Rows are driven one by one."""
        return self._pads is not None and self.method.rows_apart

    @contextlib.contextmanager
    def _row(self, b: int) -> Iterator[None]:
        """While it is open, row b is the whole text."""
        whole = self.states, self.sequence_state, self._serving, self._pads, self._batch, self.last_logits
        self.states = [state.rows[b] for state in self.states]
        self.sequence_state = self.sequence_state.rows[b]
        self._beside = [whole[0], whole[1]]
        self._serving, self._pads, self._batch = self._methods, None, 1
        self.last_logits = None if self.last_logits is None else self.last_logits[b : b + 1]
        try:
            yield
        finally:
            self.states, self.sequence_state, self._serving, self._pads, self._batch, self.last_logits = whole
            self._beside = []

    def _drive_rows(self, run: _Run, ids: Tensor, pads: Sequence[int]) -> Tensor:
        """Each row's own tokens of a call; logits [B, keep, V], zero where a row has only padding yet."""
        outputs: list[Tensor] = []
        for b, pad in enumerate(pads):
            own = ids[b : b + 1, max(0, pad - self.n_tokens) :]
            with self._row(b):
                outputs.append(self.method.drive(run, own, self) if own.shape[1] else own.new_zeros(1, 0, 0).float())
        keep, width = run.keep, max(out.shape[2] for out in outputs)
        logits = outputs[0].new_zeros(len(outputs), keep, width)
        for b, out in enumerate(outputs):
            out = out[:, -keep:]
            logits[b, keep - out.shape[1] :, : out.shape[2]] = out[0]
        return logits

    @property
    def layers(self) -> list[Layer]:
        """The model's attention layers, each with what its method brings."""
        return [self._layer(i) for i in range(len(self.bridge.layers))]

    @property
    def methods(self) -> list[Method]:
        """The method that serves each layer: the session's, a layer's own, or a window where the model has one."""
        return list(self._serving)

    @property
    def n_tokens(self) -> int:
        """Tokens of the text so far, padding included."""
        return self._prompt + self._new

    @property
    def pads(self) -> tuple[int, ...] | None:
        """Left padding of each row of the text in tokens, or None where there is none."""
        return self._pads

    @property
    def alone(self) -> bool:
        """One row of several is driven alone now (`rows_apart`): the others' states wait."""
        return bool(self._beside)

    @property
    def new_tokens(self) -> int:
        """Tokens decoded since the prompt."""
        return self._new

    @property
    def state(self) -> list[Any]:
        """Everything that is held: each layer's state, the sequence's, and what the model keeps in its own cache. To
        count several sessions that share storage, measure their states together."""
        foreign = [] if self._cache is None else [self._cache.foreign]
        return [self.states, self.sequence_state, *foreign, *self._beside]

    def state_bytes(self) -> Bytes:
        """Live bytes by tier, payload and slack apart."""
        return states.measure(self.state)

    def footprint(self) -> Footprint:
        """What the closed forms say for this point. A hybrid's own states are taken as they are."""
        if not self.states:
            return Footprint()
        rows, pads = (1, self._pads or ()) if self._apart else (self._batch, (0,))
        parts = [self.method.sequence_footprint(rows, max(0, self._prompt - p), self._new, self._sealed) for p in pads]
        total = Footprint(sum((part.held for part in parts), Bytes()), max(part.read for part in parts))
        for layer, method in zip(self.layers, self._serving, strict=True):
            if layer.source is None:
                total += method.footprint(layer, self._batch, self._prompt, self._new, self._sealed)
        if self._cache is not None:
            foreign = states.measure(self._cache.foreign)
            total += Footprint(foreign, foreign.payload // self._batch)
        return total

    # ------------------------------------------------------------------------------------------ calls

    def prefill(
        self, input_ids: Tensor, *, chunk: int | None = None, seal: bool = True, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Read a prompt, or more of it.

        input_ids [B, T]; chunk: tokens a forward (None: all at once); seal: the prompt ends here; attention_mask [B, T]
        of a left-padded batch, with the first call only. Returns the logits [B, V] (float32) of the last position.
        """
        ids = self._checked(input_ids)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk {chunk} holds no token; give at least 1, or None for one call")
        if self._decoded:
            raise RuntimeError("prefill after decode: the prompt has ended; call reset() to begin another text")
        if self._sealed:
            raise RuntimeError(
                "prefill after seal: the prompt has ended; give what follows to decode(), or call reset()"
            )
        pads = self._pads
        if attention_mask is not None:
            if self._prompt:
                raise ValueError("attention_mask belongs to the first prefill of a text")
            pads = left_pads(attention_mask, ids)
            if pads is not None and not self.bridge.takes_positions:
                raise ValueError(
                    f"{type(self.model).__name__} takes no position_ids; give its rows one by one instead of padded"
                )
        pieces = list(ids.split(chunk or ids.shape[1], 1))
        bridge = self.bridge
        if bridge.one_shot and (len(pieces) > 1 or self._prompt):
            raise ValueError(f"{bridge.one_shot}; give the whole prompt at once, with chunk=None")
        if pads is not None and bridge.recurrent and pieces[0].shape[1] <= max(pads) and not self._prompt:
            raise ValueError(
                f"the first chunk must be longer than the padding ({max(pads)} tokens) where a model has recurrent "
                "layers; raise chunk, or give the rows one by one"
            )
        self._check_length(self.n_tokens + ids.shape[1], pads)
        if not self.states:
            self._guard(lambda: self._begin(ids.shape[0], pads))
        for piece in pieces:
            self._advance(piece, "prefill", keep=1)
        if seal:
            self.seal()
        assert self.last_logits is not None
        return self.last_logits

    def prefill_packed(self, rows: Sequence[Tensor], *, chunk: int | None = None, seal: bool = True) -> Tensor:
        """Read prompts of unequal length without padding: one after the other, `chunk` tokens of them a forward.

        rows: token ids [T_b] of each. Afterwards the text stands as after a prefill of the same rows padded on the
        left. Returns the logits [B, V] (float32) of each row's last position. Raises ValueError for a model that keeps
        more than keys and values, and for a method that reads a text in an order of its own.
        """
        lengths = [len(row) for row in rows]
        if not rows or not all(lengths) or any(row.ndim != 1 for row in rows):
            raise ValueError("packed prompts are a list of token ids [T], each of at least one token")
        if self.states:
            raise RuntimeError("prefill_packed after prefill: call reset() to begin another text")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk {chunk} holds no token; give at least 1, or None for one call")
        bridge, cache, longest = self.bridge, self._cache, max(lengths)
        assert cache is not None
        keeps_more = bridge.recurrent or bridge.latents or not bridge.takes_positions
        if keeps_more or self.method.drives or self.method.rereads:
            raise ValueError(
                f"{type(self.model).__name__} with {type(self.method).__name__} cannot read packed prompts; pad them "
                "on the left, or give them one by one"
            )
        pads = tuple(longest - n for n in lengths)
        self._check_length(longest, pads)
        ids = [row.to(bridge.layers[0].device) for row in rows]

        def act() -> Tensor:
            self._begin(len(rows), pads)
            self._phase = "prefill"
            with torch.set_grad_enabled(self.grad):
                found = [logits for pieces in pack(lengths, chunk) for logits in self._read_packed(ids, pieces)]
            cache.n = longest
            return torch.cat(found)

        self.last_logits = logits = self._guard(act)
        self._prompt = longest
        if seal:
            self.seal()
        return logits

    def _read_packed(self, ids: Sequence[Tensor], pieces: Sequence[Piece]) -> Iterator[Tensor]:
        """One forward over pieces of rows; logits [1, V] of each row that ends in it, in order."""
        assert self._cache is not None
        packed = torch.cat([ids[piece.row][piece.start : piece.end] for piece in pieces])[None]
        positions = torch.cat([torch.arange(p.start, p.end, device=packed.device) for p in pieces])[None]
        last, ending = 0, []
        for piece in pieces:
            last += piece.tokens
            if piece.end == len(ids[piece.row]):
                ending.append(last - 1)
        self._step, self._pieces = (positions, 0), pieces
        keep = torch.tensor(ending or [0], device=packed.device)
        logits = self.bridge.forward(self, self._cache, positions, ids=packed, keep=keep)
        self._step = self._pieces = None
        yield from logits.float()[0, : len(ending)].split(1) if ending else ()

    def seal(self) -> None:
        """The prompt has ended: methods that compress do so now. Idempotent."""
        if not self.states:
            raise RuntimeError("seal before prefill: there is no prompt")
        if not self._sealed:
            self._guard(self._seal)

    def _seal(self) -> None:
        with torch.set_grad_enabled(self.grad):
            for b in range(self._batch if self._apart else 1):
                with self._row(b) if self._apart else contextlib.nullcontext():
                    self.method.second_pass(_Run(self, "score", 1), self)
            for layer, method, state in zip(self.layers, self._serving, self.states, strict=True):
                if layer.source is None:
                    method.seal(state, layer)
        self._sealed = True

    @contextlib.contextmanager
    def repeating(self) -> Iterator[None]:
        """While it is open, forwards leave the text as long as it is: what they do is repeated (static_step.py)."""
        assert self._cache is not None
        before = self._cache.n
        try:
            yield
        finally:
            self._cache.n = before

    def count_decoded(self, logits: Tensor) -> Tensor:
        """Note that one token of each row was decoded otherwise than by `decode`; returns its logits [B, V]."""
        assert self._cache is not None
        self._cache.n += 1
        self._new += 1
        self._decoded, self.last_logits = True, logits
        return logits

    def decode(self, input_ids: Tensor) -> Tensor:
        """Feed tokens after the prompt, [B, T] with T >= 1 or one for each row, [B], in one forward. Returns the logits
        [B, V] of the last."""
        self._decode(input_ids[:, None] if input_ids.ndim == 1 else input_ids, keep=1)
        assert self.last_logits is not None
        return self.last_logits

    def _decode(self, input_ids: Tensor, keep: int | None) -> Tensor:
        ids = self._checked(input_ids)
        if not self.states:
            raise RuntimeError("decode before prefill: there is no prompt to continue")
        if self.bridge.one_shot and ids.shape[1] > 1:
            raise ValueError(f"{self.bridge.one_shot}; decode one token at a time")
        self._check_length(self.n_tokens + ids.shape[1], self._pads)
        self._decoded = True
        return self._advance(ids, "decode", keep)

    def forced(self, ids: Tensor, step: int | None = None) -> Iterator[Tensor]:
        """Feed a given continuation [B, T]; yields float32 logits [B, t, V] that predict ids[:, i], in order.

        The first comes from the call before. `step` tokens go in one decode; None: 64 where every method is chunk
        invariant, else 1.
        """
        if step is None:
            free = all(method.chunk_invariant for method in self._methods) and not self.bridge.one_shot
            step = FORCED_STEP if free else 1
        if self.last_logits is None:
            raise RuntimeError("forced before prefill: there is no prompt to continue")
        before = self.last_logits[:, None]
        for piece in self._checked(ids).split(step, 1):
            logits = self._decode(piece, keep=None)
            yield torch.cat([before, logits[:, :-1]], 1)
            before = logits[:, -1:]

    def score(self, ids: Tensor) -> Tensor:
        """Log-probabilities [B, T] (float32) of a given continuation, which is fed."""
        scores, at = [], 0
        for logits in self.forced(ids):
            piece = ids[:, at : at + logits.shape[1], None].to(logits.device)
            scores.append(logits.log_softmax(-1).gather(2, piece)[..., 0])
            at += logits.shape[1]
        return torch.cat(scores, 1)

    def generate(
        self,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        *,
        choose: Choose = greedy,
        ended: Callable[[list[int]], bool] | None = None,
        on_token: Callable[[Tensor], None] | None = None,
    ) -> list[list[int]]:
        """Continue from the last logits, with the tokens that `choose` gives (decoding.Sampling draws them). Returns
        the new tokens of each row.

        A row ends before its first stop token, or with the token after which `ended` says so of all its new ones
        (decoding.StopStrings). All rows are fed until the last of them ends. `on_token` sees each [B, 1] token.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {max_new_tokens} asks for no token; give at least 1")
        if self.last_logits is None:
            raise RuntimeError("generate before prefill: there is no prompt to continue")
        self._check_length(self.n_tokens + max_new_tokens, self._pads)
        rows: list[list[int]] = [[] for _ in range(self._batch)]
        running = [True] * self._batch
        for _ in range(max_new_tokens):
            token = choose(self.last_logits)
            for b, t in enumerate(token[:, 0].tolist()):
                running[b] = running[b] and t not in stop_ids
                if running[b]:
                    rows[b].append(t)
                    running[b] = ended is None or not ended(rows[b])
            if not any(running):
                break
            if on_token is not None:
                on_token(token)
            self.decode(token)
        return rows

    # ------------------------------------------------------------------------------------------ forwards

    def _checked(self, ids: Tensor) -> Tensor:
        device = self.bridge.layers[0].device
        if ids.ndim != 2 or ids.shape[1] < 1 or ids.shape[0] < 1 or ids.is_floating_point():
            raise ValueError(f"token ids are integers [B, T] with T >= 1; got {tuple(ids.shape)} of {ids.dtype}")
        if self._batch and ids.shape[0] != self._batch:
            raise ValueError(
                f"this text has {self._batch} rows, and {ids.shape[0]} were given; call reset() to begin another"
            )
        return ids.to(device)

    def _guard(self, act: Callable[[], Any]) -> Any:
        """Whatever fails leaves a session without a text, never one that stands in the middle of a call."""
        try:
            return act()
        except BaseException as error:
            self._clear()
            error.add_note("the session was reset; prefill again")
            raise

    def _advance(self, ids: Tensor, phase: Phase, keep: int | None) -> Tensor:
        """One call in the method's own order. Returns logits [B, keep, V], all T where keep is None."""
        T = ids.shape[1]

        def act() -> Tensor:
            with torch.set_grad_enabled(self.grad):
                run = _Run(self, phase, T if keep is None else keep)
                if self._apart:
                    return self._drive_rows(run, ids, self._pads or ())
                return self.method.drive(run, ids, self)

        logits = self._guard(act)
        if phase == "prefill":
            self._prompt += T
        else:
            self._new += T
        self.last_logits = logits[:, -1]
        return logits

    def check_length(self, n: int) -> None:
        """Raise UsageError where a text of n tokens is longer than the positions of the model and the method reach."""
        self._check_length(n, None)

    @property
    def reach(self) -> float:
        """Tokens that the positions of the model and the method reach; infinity where nothing bounds them."""
        limit = self._positions
        if self.bridge.learned_positions:
            return limit
        served = zip(self.bridge.layers, self._methods, strict=True)
        # Asked once a token: of a method that serves many layers once.
        unlike = {id(method): method for layer, method in served if layer.window is None}
        return min((method.reach(limit) for method in unlike.values()), default=math.inf)

    @property
    def _positions(self) -> float:
        """Positions of the model."""
        return math.inf if self.bridge.max_positions is None else self.bridge.max_positions

    def _check_length(self, n: int, pads: tuple[int, ...] | None) -> None:
        limit, reach = self._positions, self.reach
        if n - min(pads or (0,)) <= reach:
            return
        name = type(self.model).__name__
        if reach != limit:
            of = f"makes of the {limit} positions of {name}" if limit < math.inf else "takes"
            raise UsageError(
                f"context of {n} tokens is longer than the {reach:.0f} that this method {of}; shorten it, or "
                "change the method's parameters"
            )
        raise UsageError(
            f"context of {n} tokens is longer than the {limit} positions of {name}; shorten it, or choose a method "
            "whose positions are those in the cache, or stretch further"
        )

    def run(
        self,
        ids: Tensor | None = None,
        *,
        phase: Phase = "prefill",
        keep: int | None = 1,
        fresh: bool = False,
        skipped: int = 0,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        hidden: bool = False,
    ) -> Tensor:
        """One forward of the model; what a method's `drive` is given.

        ids [B, T], or embeds [B, T, hidden_size]. keep: logits of how many last positions (None: all). fresh: this is
        the text from its beginning, or all but its first `skipped` columns, so positions start at 0 and a hybrid's
        states are emptied. positions [B, T]: others than the next. phase "score": the tokens are not remembered.
        hidden: the last hidden states, not logits.
        """
        bridge, cache = self.bridge, self._cache
        assert cache is not None
        B, T = (ids if ids is not None else embeds).shape[:2]  # pyright: ignore[reportOptionalMemberAccess]
        if fresh:
            cache.n = 0
            cache.load(None)
        start = cache.n
        if positions is None:
            positions = torch.arange(start, start + T, device=bridge.layers[0].device)[None].expand(B, -1)
            if self._pads is not None:
                pads = (positions.new_tensor(self._pads) - skipped).clamp(min=0)
                positions = (positions - pads[:, None]).clamp(min=0)
        mask = None
        if self._pads is not None and bridge.recurrent:
            pads = positions.new_tensor(self._pads)
            mask = (torch.arange(start + T, device=positions.device)[None] >= pads[:, None]).long()
        saved = cache.save() if phase == "score" else None
        self._phase, self._step = phase, (positions, start + skipped)
        logits = bridge.forward(
            self, cache, positions, ids=ids, embeds=embeds, attention_mask=mask, keep=keep, hidden=hidden
        )
        self._step = None
        if phase == "score":
            cache.n = start
            cache.load(saved)
        return logits if hidden else logits.float()

    # What the bridge calls during a forward.

    def attend(
        self,
        index: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        pre: Callable[[], tuple[Tensor, Tensor]],
    ) -> Tensor:
        assert self._step is not None
        positions, start = self._step
        after = index + 1
        if after < len(self.states) and self._prefetching[after]:
            self._serving[after].prefetch(self.states[after], self._layer(after))
        # A model may lie on several devices, its layers one after the other.
        step = Step(positions.to(q.device), start, self._phase, self._pads, sinks, pre)
        serving = self._serving[index]
        if self._pieces is not None:
            assert isinstance(serving, PerRow)
            return serving.attend_packed(q, k, v, self.states[index], self._layer(index), step, self._pieces)
        return serving.attend(q, k, v, self.states[index], self._layer(index), step)

    def latent(self, index: int, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self._serving[index].latent(a, b, self.states[index], self._layer(index))

    # ------------------------------------------------------------------------------------------ copies

    def fork(self) -> Session:
        """A child that stands where this session stands; what is done to it leaves this one undisturbed.

        It lives inside this session's `with`, or in one of its own: `with s.fork() as child:`.
        """
        child = type(self).__new__(type(self))
        child.model, child.method, child.grad = self.model, self.method, self.grad
        child._methods, child._brought = self._methods, self._brought
        child._bridge, child._parent, child.unrotated = None, self, self.unrotated
        child._cache = self.bridge.new_cache(self.bridge.latents)
        child._clear()
        self._hand(child, states.fork([self.states, self.sequence_state]))
        child._cache.load(self._cache.save() if self._cache is not None else None)
        child._cache.n = self._cache.n if self._cache is not None else 0
        return child

    def _hand(self, child: Session, copied: Sequence[Any]) -> None:
        child.states, child.sequence_state = copied
        child._serving, child._pads, child._batch = self._serving, self._pads, self._batch
        child._prompt, child._new = self._prompt, self._new
        child._sealed, child._decoded = self._sealed, self._decoded
        child.last_logits = self.last_logits
        if self.states:
            child._prefetching = self._prefetching

    def snapshot(self) -> dict[str, Any]:
        """The text's whole state as plain dictionaries and tensors, for `torch.save`; `restore` takes it back."""
        assert self._cache is not None
        return {
            "method": repr(self.method),
            "states": states.snapshot([self.states, self.sequence_state]),
            "foreign": self._cache.save(),
            "seen": self._cache.n,
            "batch": self._batch,
            "pads": None if self._pads is None else list(self._pads),
            "prompt": self._prompt,
            "new": self._new,
            "sealed": self._sealed,
            "decoded": self._decoded,
            "logits": None if self.last_logits is None else self.last_logits.detach().clone(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Stand where `snapshot` was taken, in this or another session of the same model and method."""
        mine = repr(self.method)
        if snapshot["method"] != mine:
            raise ValueError(f"this snapshot is of method {snapshot['method']}, and the session runs {mine}")
        bridge, cache = self.bridge, self._cache
        assert cache is not None
        self._clear()
        self._batch = snapshot["batch"]
        self._pads = None if snapshot["pads"] is None else tuple(snapshot["pads"])
        if self._batch:
            self._begin(self._batch, self._pads)
        restored, self.sequence_state = states.restore(snapshot["states"])
        if len(restored) not in (0, len(bridge.layers)):
            self._clear()
            raise ValueError(f"this snapshot has {len(restored)} layers, and the model {len(bridge.layers)}")
        self.states = restored
        cache.load(snapshot["foreign"])
        cache.n = snapshot["seen"]
        self._prompt, self._new = snapshot["prompt"], snapshot["new"]
        self._sealed, self._decoded = snapshot["sealed"], snapshot["decoded"]
        self.last_logits = None if snapshot["logits"] is None else snapshot["logits"].clone()

    def adopt(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        logits: Tensor,
        *,
        queries: Sequence[Tensor] | None = None,
        seal: bool = True,
    ) -> Tensor:
        """Start from a dense prefix instead of a prefill.

        keys_values: k [B, Hkv, n, D] and v [B, Hkv, n, Dv] of each attention layer; queries: the last ones
        [B, Hq, w, D] of each layer, where a method's `adopts` asks for them; logits [B, V] of the last position. Layers
        that the model itself windows need no such method: they see no more under dense attention.
        """
        if self.states:
            raise RuntimeError("adopt after prefill: call reset() to begin another text")
        bridge = self.bridge
        for layer, method in zip(self.layers, self._methods, strict=True):
            asked = "kv" if layer.window is not None or layer.source is not None else method.adopts
            if asked is None or (asked == "kv+queries" and queries is None):
                raise ValueError(
                    f"{type(method).__name__} adopts {method.adopts!r}, which this prefix does not bring; prefill "
                    "instead"
                )
        if bridge.recurrent or bridge.latents:
            raise ValueError(f"{type(self.model).__name__} keeps more than keys and values; prefill instead")
        assert self._cache is not None
        batch, _, n, _ = keys_values[0][0].shape

        def act() -> None:
            self._begin(batch, None)
            for layer, method, state, (k, v) in zip(self.layers, self._methods, self.states, keys_values, strict=True):
                if layer.source is None:
                    asked = queries if method.adopts == "kv+queries" else None
                    method.adopt(state, layer, k, v, None if asked is None else asked[layer.index])

        self._guard(act)
        self._cache.n = self._prompt = n
        self.last_logits = logits.float()
        if seal:
            self.seal()
        return self.last_logits
