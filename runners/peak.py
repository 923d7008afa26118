"""The most memory that tensors held at once, to the byte.

torch keeps no statistics of CPU memory, and a process's resident size has little to do with its tensors. So every
operator inside the block is watched, and every storage that comes out of one is counted until it is freed:

    with track("cpu", external=model.parameters()) as memory:
        y = model(x)
    memory.peak, memory.peak_parts

Weights and whatever else lived before the block count where they are named as `external`; other tensors from before
do not. `tell_apart` says whose storages are the state's and which module makes logits, so that a peak shows what it was
made of. Temporaries inside a kernel are no tensors: torch's profiler sees them, and they are reported apart, as
`workspace`.

On CUDA the caching allocator has statistics of its own, which know such temporaries from tensors no more than they know
ours from others: what was allocated before the block is taken off, its unused reserve is reported apart, as
`allocator_waste`, and what storages do not account for of its peak is the `workspace` among the parts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from kvfrontier.methods import state as states
from kvfrontier.methods.state import Buf
from kvfrontier.runners.record import Parts


def track(device: torch.device | str, external: Iterable[Tensor] = (), *, workspace: bool = False) -> PeakMemory:
    """A context manager that measures the peak on `device`; `external` tensors count from the start.

    `workspace` asks for temporaries inside kernels too (CPU only), by the profiler.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return CudaPeak(device, external)
    return StoragePeak(device, external, workspace=workspace)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind the tensors, each once (tied weights, views)."""
    storages = (t.untyped_storage() for t in tensors)
    return sum({s._cdata: s.nbytes() for s in storages}.values())


class PeakMemory(ABC):
    """Bytes on one device, while the block runs.

    current           held now
    peak              the most held at once since the block began, or since `reset_peak`
    current_parts     what `current` is made of
    peak_parts        what `peak` was made of when it was reached for the first time
    workspace         after the block: by how much temporaries inside kernels raised its peak further, or None
    allocator_waste   after the block: reserved by a caching allocator beyond what it had handed out, or None
    """

    workspace: int | None = None
    allocator_waste: int | None = None

    @property
    @abstractmethod
    def current(self) -> int: ...

    @property
    @abstractmethod
    def peak(self) -> int: ...

    @property
    @abstractmethod
    def current_parts(self) -> Parts: ...

    @property
    @abstractmethod
    def peak_parts(self) -> Parts: ...

    @abstractmethod
    def tell_apart(self, state: Callable[[], Any], head: nn.Module) -> None:
        """From now on until the block ends, what `state()` refers to is the state, and what `head`, the language-model
        head, gives is logits. Before, both are activations."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Begin a new phase: the peak is what is held now."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: Any) -> None: ...


class StoragePeak(PeakMemory):
    """Counts storages on any device that has no statistics of its own: CPU, MPS, and fake tensors on either."""

    def __init__(self, device: torch.device, external: Iterable[Tensor] = (), *, workspace: bool = False) -> None:
        self._storages = _Storages(device.type)
        self._external = list(external)
        self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if workspace else None
        self._block = ExitStack()

    @property
    def current(self) -> int:
        return self._storages.current

    @property
    def peak(self) -> int:
        return self._storages.peak

    @property
    def current_parts(self) -> Parts:
        return self._storages.parts()

    @property
    def peak_parts(self) -> Parts:
        return self._storages.peak_parts

    def tell_apart(self, state: Callable[[], Any], head: nn.Module) -> None:
        self._storages.state = state
        self._block.enter_context(self._storages.making_logits(head))

    def reset_peak(self) -> None:
        self._storages.new_phase()

    def __enter__(self) -> Self:
        self._storages.count_weights(self._external)
        self._external = []
        self._start = self.current
        if self._profiler is not None:
            with _without_kineto_chatter():
                self._profiler.start()
        self._block.enter_context(self._storages)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._block.close()
        if self._profiler is not None:
            with _without_kineto_chatter():
                self._profiler.stop()
            tensors = max(self._storages.highest, self.peak) - self._start
            self.workspace = max(0, _peak_of_allocations(self._profiler) - tensors)
            self._profiler = None


class _Storages(TorchDispatchMode):
    """Sees every operator, and counts the storages of what comes out of it until they are freed."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        #: `highest` is the highest peak of the phases before.
        self.current = self.peak = self.highest = 0
        self.peak_parts = Parts()
        #: Gives the state; asked whenever the peak rises.
        self.state: Callable[[], Any] = lambda: None
        #: By address of the storage: its bytes, and a reference that reports its end.
        self._live: dict[int, tuple[int, weakref.ref]] = {}
        self._weights: set[int] = set()
        self._logits: set[int] = set()
        self._inside_head = False

    def count_weights(self, tensors: Iterable[Tensor]) -> None:
        """Storages that lived before, and count from now on."""
        for tensor in tensors:
            self._count(tensor)
            if _key(tensor) in self._live:
                self._weights.add(_key(tensor))
        self._note_peak()

    @contextmanager
    def making_logits(self, head: nn.Module) -> Iterator[None]:
        """While it is open, what is born inside `head` is logits."""

        def inside(value: bool) -> None:
            self._inside_head = value

        hooks = (
            head.register_forward_pre_hook(lambda *_: inside(True)),
            head.register_forward_hook(lambda *_: inside(False), always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def parts(self) -> Parts:
        """What is held now, by whose it is. What belongs to several is the weights', or else the state's."""
        weights = sum(self._live[key][0] for key in self._weights)
        needed: dict[tuple[int, bool], int] = {}
        allocated: dict[tuple[int, bool], int] = {}
        for _, leaf, host in states.leaves(self.state()):
            tensor = leaf.x if isinstance(leaf, Buf) else leaf
            key = _key(tensor)
            # Another device's memory is the host's; what is not counted lived before.
            elsewhere = host and tensor.device.type != self.device_type
            if elsewhere or (key in self._live and key not in self._weights):
                allocated[key, host] = tensor.untyped_storage().nbytes()
                needed[key, host] = needed.get((key, host), 0) + _needed(leaf)
        held = {key: min(needed[key], allocated[key]) for key in allocated}
        logits = self._logits - {key for key, _ in allocated}
        here = sum(size for (key, _), size in allocated.items() if key in self._live)
        in_logits = sum(self._live[key][0] for key in logits)
        return Parts(
            weights=weights,
            state=sum(size for (_, host), size in held.items() if not host),
            slack=sum(allocated[key] - size for key, size in held.items() if not key[1]),
            host=sum(size for (_, host), size in allocated.items() if host),
            logits=in_logits,
            activations=self.current - weights - here - in_logits,
        )

    def new_phase(self) -> None:
        self.highest = max(self.highest, self.peak)
        self.peak, self.peak_parts = self.current, self.parts()

    def _count(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device_type:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            self._live[key] = (size, weakref.ref(storage, lambda _: self._freed(key)))
            self.current += size
        elif known[0] != size:  # resized in place
            self._live[key] = (size, known[1])
            self.current += size - known[0]

    def _note_peak(self) -> None:
        if self.current > self.peak:
            self.peak, self.peak_parts = self.current, self.parts()

    def _freed(self, key: int) -> None:
        size, _ = self._live.pop(key)
        self.current -= size
        self._weights.discard(key)
        self._logits.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # Composite operators arrive whole there: in parts, their temporaries are seen too.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        new = [tensor for tensor in _tensors(out) if not self._knows(tensor)]
        if new:
            given = list(_tensors((*args, *kwargs.values())))
            # A view of a tensor from before the block is no new memory, except that torch.tensor() comes as such.
            fresh = func is torch.ops.aten.lift_fresh.default
            before = () if fresh else {_key(tensor) for tensor in given}
            # Token ids are made of logits too, and all that follows of them.
            logits = self._inside_head or any(t.is_floating_point() and _key(t) in self._logits for t in given)
            for tensor in new:
                if _key(tensor) in self._live or _key(tensor) not in before:
                    self._count(tensor)
                    if logits and tensor.is_floating_point() and _key(tensor) in self._live:
                        self._logits.add(_key(tensor))
            self._note_peak()
        return out

    def _knows(self, tensor: Tensor) -> bool:
        """Whether its storage is counted, at the size it has now."""
        storage = tensor.untyped_storage()
        known = self._live.get(storage._cdata)
        return known is not None and known[0] == storage.nbytes()


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments or outputs."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _needed(leaf: Any) -> int:
    """Bytes that a leaf of a state must hold. Asked in the middle of an operator, a buffer may already have another
    tensor and not yet its new length."""
    if not isinstance(leaf, Buf):
        return leaf.nbytes
    entries = leaf.x.shape[leaf.dim]
    return leaf.x.nbytes // entries * min(leaf.n, entries) if entries else 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _peak_of_allocations(profiler: profile) -> int:
    """The most that the CPU allocator had handed out since the profiler began."""
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [e for e in results.events() if e.name() == "[memory]" and e.device_type().name == "CPU"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak


@contextmanager
def _without_kineto_chatter() -> Iterator[None]:
    """The profiler's library writes lines of its own to stderr, whatever its log level. Others' lines pass."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        real = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            said.seek(0)
            for line in said:
                if not line.startswith((b"USDT:", b"STAGE:")):
                    os.write(2, line)


class CudaPeak(PeakMemory):
    """Statistics of CUDA's caching allocator, whose blocks are multiples of 512 bytes; storages tell its parts.

    Of a model that lies on several GPUs, `external`, they are summed over these: what is held now exactly, and the peak
    as the sum of each GPU's own, which need not be of one moment."""

    def __init__(self, device: torch.device, external: Iterable[Tensor] = ()) -> None:
        self._external = [t for t in external if t.device.type == "cuda"]
        self._devices = sorted({t.device for t in self._external} or {device}, key=str)
        self._storages = _Storages("cuda")
        self._block = ExitStack()

    @property
    def current(self) -> int:
        return self._sum(torch.cuda.memory_allocated) - self._others

    @property
    def peak(self) -> int:
        return self._sum(torch.cuda.max_memory_allocated) - self._others

    @property
    def current_parts(self) -> Parts:
        return _with_workspace(self._storages.parts(), self.current)

    @property
    def peak_parts(self) -> Parts:
        return _with_workspace(self._storages.peak_parts, self.peak)

    def tell_apart(self, state: Callable[[], Any], head: nn.Module) -> None:
        self._storages.state = state
        self._block.enter_context(self._storages.making_logits(head))

    def reset_peak(self) -> None:
        self._note_waste()
        self._each(torch.cuda.reset_peak_memory_stats)
        self._storages.new_phase()

    def __enter__(self) -> Self:
        self._each(torch.cuda.synchronize)
        torch.cuda.empty_cache()
        self._each(torch.cuda.reset_peak_memory_stats)
        # Allocated by others, and rounding.
        self._others = self._sum(torch.cuda.memory_allocated) - storage_bytes(self._external)
        self.allocator_waste = 0
        self._storages.count_weights(self._external)
        self._external = []
        self._block.enter_context(self._storages)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._block.close()
        self._note_waste()

    def _note_waste(self) -> None:
        self._each(torch.cuda.synchronize)
        reserved = self._sum(torch.cuda.max_memory_reserved)
        waste = reserved - self._sum(torch.cuda.max_memory_allocated)
        self.allocator_waste = max(self.allocator_waste or 0, waste)

    def _each(self, act: Callable[[torch.device], object]) -> None:
        for device in self._devices:
            act(device)

    def _sum(self, size: Callable[[torch.device], int]) -> int:
        return sum(map(size, self._devices))


def _with_workspace(parts: Parts, allocated: int) -> Parts:
    """What the allocator had handed out beyond the storages."""
    return parts.model_copy(update={"workspace": allocated - parts.device})
