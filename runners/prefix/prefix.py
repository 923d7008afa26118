"""The dense prefix of a prompt: keys, values and last queries of every layer, piece by piece as the prompt is cut into
chunks.

A piece's address is a hash of the model (weights, configuration, dtype), of where and with which backend it runs, and
of all tokens up to the piece's end with the cuts between them. So prompts that begin alike share their first pieces:
several questions about one context do, and a context alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods import Dense
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Method
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.per_layer import PerLayer
from kvfrontier.runners.environment import device_name
from kvfrontier.runners.finite import FiniteSession
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.prefix.files import PrefixFiles
from kvfrontier.runners.record import canonical_json
from kvfrontier.runners.session import Session

#: Raised whenever a piece holds something else under the same address.
FORMAT = 1
#: Of each piece so many last queries are kept; a method that needs more reads its prompt itself.
LAST_QUERIES = 64

Piece = Mapping[str, Tensor]


def why_not(session: Session) -> str | None:
    """Why a session's prompts cannot begin with a dense prefix, in words, or None where they can."""
    bridge, method = session.bridge, session.method
    if session.grad:
        return "its gradients are wanted"
    if bridge.recurrent or bridge.latents:
        return f"{type(session.model).__name__} keeps more than keys and values"
    if type(method).drive not in (Method.drive, Cached.drive, PerLayer.drive):
        return f"{type(method).__name__} reads the text in an order of its own"
    for layer, one in full_attention(session):
        if one.adopts is None:
            return f"what {type(one).__name__} does in layer {layer.index} does not begin with dense attention"
        if one.last_queries > LAST_QUERIES:
            return f"it looks at the last {one.last_queries} queries, and {LAST_QUERIES} are kept"
    if len(backends(session)) > 1:
        return "its layers have different backends"
    return None


def full_attention(session: Session) -> Iterator[tuple[Layer, Method]]:
    """The layers that have a state of their own and no window of the model's, with the methods that serve them."""
    for layer, method in zip(session.layers, session.methods, strict=True):
        if layer.window is None and layer.source is None:
            yield layer, method


def backends(session: Session) -> set[str]:
    """Backends of the methods that serve full-attention layers; where a method does not say, `auto`."""
    return {getattr(method, "backend", "auto") for _, method in full_attention(session)} or {"auto"}


@dataclass(frozen=True)
class Prefix:
    """What a session adopts (`Session.adopt`). Tensors are put together, and on their layer's device, when they are
    asked for: no more than one layer is there twice."""

    pieces: Sequence[Piece]
    layers: Sequence[Layer]

    @property
    def logits(self) -> Tensor:
        """[B, V] float32 of the last position."""
        return self.pieces[-1]["logits"].to(self.layers[-1].device)

    @property
    def keys_values(self) -> Sequence[tuple[Tensor, Tensor]]:
        """k [B, Hkv, n, D] and v [B, Hkv, n, Dv] of each layer."""
        return _Lazy(lambda layer: (self._joined("k", layer), self._joined("v", layer)), self.layers)

    @property
    def queries(self) -> Sequence[Tensor]:
        """The last queries [B, Hq, w, D] of each layer, as they attended; w at most LAST_QUERIES."""
        return _Lazy(lambda layer: self._joined("q", layer)[:, :, -LAST_QUERIES:], self.layers)

    def _joined(self, what: str, layer: Layer) -> Tensor:
        # A layer that reads another's keys and values has none of its own.
        owner = layer.index if what == "q" or layer.source is None else layer.source
        return torch.cat([piece[f"{what}.{owner}"] for piece in self.pieces], 2).to(layer.device)


class _Lazy(Sequence[Any]):
    """What `make` makes of each layer, when it is asked for."""

    def __init__(self, make: Any, layers: Sequence[Layer]) -> None:
        self._make, self._layers = make, layers

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._layers[index])


class Recorder(FiniteSession):
    """Dense attention, whose keys, values and last queries are noted."""

    def __init__(self, model: Any, method: Method) -> None:
        super().__init__(model, method)
        self.noted: dict[str, Tensor] = {}

    def attend(self, index: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, pre: Any) -> Tensor:
        if self._layer(index).source is None:
            self.noted |= {f"k.{index}": _kept(k), f"v.{index}": _kept(v)}
        self.noted[f"q.{index}"] = _kept(q[:, :, -LAST_QUERIES:])
        return super().attend(index, q, k, v, sinks, pre)

    def read(self, ids: Tensor) -> Piece:
        """The next piece of the prompt."""
        self.noted = {}
        logits = self.prefill(ids, seal=False)
        return {**self.noted, "logits": _kept(logits)}


def _kept(x: Tensor) -> Tensor:
    """In host memory, without the rest of its storage."""
    x = x.detach().to("cpu")
    alone = x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes
    return x if alone else x.clone(memory_format=torch.contiguous_format)


class Prefixes:
    """The dense prefixes of one loaded model, from files or computed.

    served    prompts that began with one
    computed  pieces that had to be computed, of those
    """

    def __init__(self, loaded: LoadedModel, files: PrefixFiles) -> None:
        self._loaded, self._files = loaded, files
        self.served = self.computed = 0

    def of(self, session: Session, ids: Tensor, chunk: int | None) -> Prefix:
        """The prefix of the prompt ids [B, n] for an open session that can adopt it (`why_not`), read `chunk` tokens at
        a time (None: at once)."""
        pieces = list(ids.split(chunk or ids.shape[1], 1))
        (backend,) = backends(session)
        keys = self._addresses(pieces, backend)
        found: list[Piece] = []
        for key in keys:
            piece = self._files.load(key)
            if piece is None:
                break
            found.append(piece)
        if len(found) < len(keys):
            found += self._compute(session, found, pieces, keys, backend)
        elif not session.bridge.checked:
            # What a model does is compared with its configuration in its first forward, before anything counts on it.
            with Session(session.model, Dense(backend)) as first:
                first.prefill(pieces[0][:, :4], seal=False)
        self.served += 1
        return Prefix(found, session.layers)

    def _compute(
        self, session: Session, found: Sequence[Piece], pieces: Sequence[Tensor], keys: Sequence[str], backend: str
    ) -> Iterator[Piece]:
        """The pieces behind those that were found, each stored as soon as it is there."""
        with Recorder(self._loaded.model, Dense(backend)) as dense:
            if found:
                before = Prefix(found, session.layers)
                dense.adopt(before.keys_values, before.logits, seal=False)
            for at in range(len(found), len(keys)):
                piece = dense.read(pieces[at])
                end = sum(p.shape[1] for p in pieces[: at + 1])
                self._files.save(keys[at], piece, self._facts | {"tokens": str(pieces[at].shape[1]), "end": str(end)})
                self.computed += 1
                yield piece

    @property
    def _facts(self) -> dict[str, str]:
        return {"model": self._loaded.name, "dtype": str(self._loaded.dtype).removeprefix("torch.")}

    def _addresses(self, pieces: Sequence[Tensor], backend: str) -> list[str]:
        """The address of each piece."""
        digest = hashlib.sha256(canonical_json([FORMAT, LAST_QUERIES, backend, self._model]).encode())
        found = []
        for piece in pieces:
            tokens = piece.to("cpu", torch.int64).contiguous()
            digest.update(f"\n{tuple(tokens.shape)}".encode() + tokens.numpy().tobytes())
            found.append(digest.copy().hexdigest())
        return found

    @cached_property
    def _model(self) -> list[Any]:
        """What decides the numbers besides tokens and backend: the weights, what is done with them, and by what."""
        loaded = self._loaded
        config = {k: v for k, v in loaded.model.config.to_dict().items() if k not in _NO_MATTER}
        libraries = [".".join(version(name).split("+")[0].split(".")[:2]) for name in ("torch", "transformers")]
        content = hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()
        return [loaded.revision, content, str(loaded.dtype), device_name(str(loaded.device)), *libraries]


#: Of a configuration: from where it was read, and by what.
_NO_MATTER = ("_name_or_path", "transformers_version", "_attn_implementation")
