"""What a method remembers, and everything that is done to it without knowing the method.

A state is a dataclass whose leaves are tensors, numbers, None, or further states and lists of them. Because nothing
else may live in it, its bytes, its copies and its snapshots are written once, here, and a method cannot hold memory
that is not counted.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

#: Growth is by eighths of a power of two, so that at most one part in eight of a buffer is unused.
_STEPS_PER_DOUBLING = 8


def capacity(n: int) -> int:
    """Tokens that a growing buffer allocates for `n` tokens: the next of 8, 9, ... 15 times a power of two.

    A function of `n` alone, so that the footprint of a buffer does not depend on how it was filled.
    """
    if n <= _STEPS_PER_DOUBLING:
        return n
    step = 1 << max(0, (n - 1).bit_length() - _STEPS_PER_DOUBLING.bit_length())
    return -(-n // step) * step


class State:
    """Base of all states. `FROZEN` names fields that are never written again: a fork shares them."""

    FROZEN: ClassVar[tuple[str, ...]] = ()


@dataclass
class Buf(State):
    """A tensor that grows along one dimension.

    `x` is the storage, `n` how many entries of dimension `dim` are in use. With `exact` there is never an unused
    entry (bounded methods); otherwise `capacity(n)` entries are allocated. While a gradient is needed the buffer
    concatenates, since autograd does not allow a buffer to be written twice.
    """

    x: Tensor
    n: int = 0
    dim: int = 2
    exact: bool = False

    @classmethod
    def empty(cls, *shape: int, dim: int = 2, exact: bool = False, **options: Any) -> Buf:
        """An empty buffer; `shape[dim]` must be 0."""
        return cls(torch.empty(*shape, **options), 0, dim, exact)

    def view(self) -> Tensor:
        """The entries in use; no copy."""
        return self.x.narrow(self.dim, 0, self.n)

    def cut(self, begin: int, end: int) -> Tensor:
        """Entries `begin` to `end` of those in use; no copy."""
        return self.x.narrow(self.dim, begin, end - begin)

    def append(self, y: Tensor) -> None:
        total = self.n + y.shape[self.dim]
        if torch.is_grad_enabled() and (y.requires_grad or self.x.requires_grad):
            self.x = torch.cat([self.view(), y], self.dim)
        else:
            # A tensor made under inference_mode may not be written outside it.
            stale = self.x.is_inference() and not torch.is_inference_mode_enabled()
            if total > self.x.shape[self.dim] or stale:
                self._allocate(total)
            self.x.narrow(self.dim, self.n, total - self.n).copy_(y)
        self.n = total

    def set(self, y: Tensor) -> None:
        """Replace the content by `y`."""
        self.n = y.shape[self.dim]
        if self.exact or y.requires_grad or capacity(self.n) == self.n:
            # A slice would keep the whole of its storage alive.
            self.x = y.clone(memory_format=torch.contiguous_format)
        else:
            self.x = y.new_empty(self._shape(y, capacity(self.n)))
            self.view().copy_(y)

    def _shape(self, like: Tensor, entries: int) -> list[int]:
        shape = list(like.shape)
        shape[self.dim] = entries
        return shape

    def _allocate(self, total: int) -> None:
        entries = total if self.exact else capacity(total)
        grown = self.x.new_empty(self._shape(self.x, entries))
        grown.narrow(self.dim, 0, self.n).copy_(self.view())
        self.x = grown


@dataclass
class Host(State):
    """Marks a part of the state that lives in host memory, even where the device is the CPU itself."""

    inner: Any


@dataclass
class Foreign(State):
    """Tensors that the model keeps in a cache object of its own (a hybrid's convolution and SSM states).

    They are counted and forked with the rest. The values are references: the model may replace them.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Bytes:
    """Bytes by tier: `device` and `host` are payload, the `slack` fields are allocated and unused."""

    device: int = 0
    host: int = 0
    device_slack: int = 0
    host_slack: int = 0

    @property
    def payload(self) -> int:
        return self.device + self.host

    @property
    def slack(self) -> int:
        return self.device_slack + self.host_slack

    @property
    def live(self) -> int:
        return self.payload + self.slack

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def leaves(state: Any, path: str = "state", host: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield (path, leaf, is in host memory) for every Buf and every other Tensor of a state.

    Raises TypeError for anything that may not live in a state, since it could hide memory.
    """
    if isinstance(state, (Tensor, Buf)):
        yield path, state, host
    elif isinstance(state, Host):
        yield from leaves(state.inner, path, host=True)
    elif dataclasses.is_dataclass(state) and isinstance(state, State):
        undeclared = set(vars(state)) - {f.name for f in dataclasses.fields(state)}
        if undeclared:
            raise TypeError(
                f"{path} has attributes that are not fields: {sorted(undeclared)}; "
                f"declare them in {type(state).__name__}"
            )
        for f in dataclasses.fields(state):
            yield from leaves(getattr(state, f.name), f"{path}.{f.name}", host)
    elif isinstance(state, (list, tuple)):
        for i, item in enumerate(state):
            yield from leaves(item, f"{path}[{i}]", host)
    elif isinstance(state, dict):
        for key, item in state.items():
            yield from leaves(item, f"{path}[{key!r}]", host)
    elif state is not None and not isinstance(state, (int, float, bool, str)):
        raise TypeError(f"{path}: a {type(state).__name__} may not live in a state; use tensors, numbers and states")


def measure(state: Any) -> Bytes:
    """Live bytes of a state, each storage counted once, unused parts of it as slack.

    Payload is what the tensors must hold; live is what their storages hold. A view of a larger storage therefore
    shows as slack, and so does an expanded tensor's missing part never: payload is capped by its storage.
    """
    needed: dict[tuple[int, bool], int] = {}
    allocated: dict[tuple[int, bool], int] = {}
    seen: set[tuple[int, bool]] = set()
    for _, leaf, host in leaves(state):
        if (id(leaf), host) in seen:  # a state that several layers share
            continue
        seen.add((id(leaf), host))
        tensor, used = (leaf.x, leaf.view()) if isinstance(leaf, Buf) else (leaf, leaf)
        storage = tensor.untyped_storage()
        key = (storage._cdata, host)
        allocated[key] = storage.nbytes()
        needed[key] = min(allocated[key], needed.get(key, 0) + used.numel() * used.element_size())
    total = Bytes()
    for key, n in needed.items():
        slack = allocated[key] - n
        total += Bytes(host=n, host_slack=slack) if key[1] else Bytes(device=n, device_slack=slack)
    return total


def _map(state: Any, fn: Callable[[Tensor], Tensor], memo: dict[int, Any], share_frozen: bool) -> Any:
    if id(state) in memo:
        return memo[id(state)]
    if isinstance(state, Tensor):
        new: Any = fn(state)
    elif isinstance(state, State):
        cls = type(state)
        frozen = cls.FROZEN if share_frozen else ()
        new = cls.__new__(cls)
        for f in dataclasses.fields(state):  # pyright: ignore[reportArgumentType]
            value = getattr(state, f.name)
            object.__setattr__(new, f.name, value if f.name in frozen else _map(value, fn, memo, share_frozen))
    elif isinstance(state, (list, tuple)):
        new = type(state)(_map(x, fn, memo, share_frozen) for x in state)
    elif isinstance(state, dict):
        new = {k: _map(v, fn, memo, share_frozen) for k, v in state.items()}
    else:
        return state
    memo[id(state)] = new
    return new


def fork(state: Any) -> Any:
    """A copy that may be changed without touching the original. `FROZEN` fields are shared; what is shared inside
    the state (one state read by two layers) stays shared inside the copy."""
    return _map(state, lambda t: t.clone(), {}, share_frozen=True)


def move(state: Any, device: torch.device | str) -> Any:
    """A copy of the state on another device; host parts stay where they are declared to be."""
    return _map(state, lambda t: t.to(device, copy=True), {}, share_frozen=False)


def snapshot(state: Any) -> Any:
    """The state as plain dictionaries, lists, numbers and tensors: `torch.save` writes it and
    `torch.load(weights_only=True)` reads it. `restore` is the inverse."""
    return _encode(state, {})


def _encode(state: Any, seen: dict[int, int]) -> Any:
    if isinstance(state, (State, Tensor)):
        if id(state) in seen:
            return {"same": seen[id(state)]}
        seen[id(state)] = number = len(seen)
        if isinstance(state, Tensor):
            return {"number": number, "tensor": state.detach().clone()}
        cls = type(state)
        values = {f.name: _encode(getattr(state, f.name), seen) for f in dataclasses.fields(state)}  # pyright: ignore[reportArgumentType]
        return {"number": number, "class": f"{cls.__module__}:{cls.__qualname__}", "fields": values}
    if isinstance(state, (list, tuple)):
        return {type(state).__name__: [_encode(x, seen) for x in state]}
    if isinstance(state, dict):
        return {"dict": {k: _encode(v, seen) for k, v in state.items()}}
    return state


def restore(snapshot: Any) -> Any:
    """The state that `snapshot` wrote. The snapshot itself is not shared with the result."""
    return _decode(snapshot, {})


def _decode(data: Any, seen: dict[int, Any]) -> Any:
    if not isinstance(data, dict):
        return data
    if "same" in data:
        return seen[data["same"]]
    if "tensor" in data:
        seen[data["number"]] = tensor = data["tensor"].clone()
        return tensor
    if "class" in data:
        module, _, name = data["class"].partition(":")
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
        if not (isinstance(cls, type) and issubclass(cls, State)):
            raise TypeError(f"a snapshot names {data['class']}, which is not a State")
        new = cls.__new__(cls)
        seen[data["number"]] = new
        for key, value in data["fields"].items():
            object.__setattr__(new, key, _decode(value, seen))
        return new
    if "list" in data:
        return [_decode(x, seen) for x in data["list"]]
    if "tuple" in data:
        return tuple(_decode(x, seen) for x in data["tuple"])
    return {k: _decode(v, seen) for k, v in data["dict"].items()}
